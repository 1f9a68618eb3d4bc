"""Against raw outputs of the official implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autotimm.dense import DenseOutputs, anchor_points, decode_yolox
from autotimm.models.yolox import YOLOXNetwork, read_official


def load(path: Path) -> YOLOXNetwork:
    size, num_classes, state = read_official(path)
    network = YOLOXNetwork(size, num_classes).eval()
    network.load_state_dict(state, strict=True)
    return network


def as_official(outputs: DenseOutputs, boxes: Tensor) -> np.ndarray:
    """The official layout ``[N, A, 85]``: four box numbers, objectness, class scores."""
    joined = torch.cat((boxes, outputs.objectness.sigmoid(), outputs.classes.sigmoid()), dim=1)
    return joined.transpose(1, 2).numpy()


def decoded(outputs: DenseOutputs, side: int = 416) -> np.ndarray:
    points, strides = (part.to(outputs.boxes.dtype) for part in anchor_points(side, side, YOLOXNetwork.strides))
    boxes = decode_yolox(outputs.boxes, points, strides)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return as_official(outputs, torch.cat((center, size), dim=1))


def worst(ours: np.ndarray, official: np.ndarray) -> tuple[float, float]:
    assert ours.shape == official.shape
    difference = np.abs(ours - official)
    return difference[..., :4].max(), difference[..., 4:].max()


@pytest.fixture(scope="module")
def nano(shared: Path) -> tuple[YOLOXNetwork, Tensor, Path]:
    folder = shared / "yolox" / "nano"
    return load(folder / "model.pth"), torch.from_numpy(np.load(folder / "input.npy")), folder


def test_raw_outputs_in_float32(nano: tuple[YOLOXNetwork, Tensor, Path]) -> None:
    network, image, folder = nano
    with torch.no_grad():
        outputs = network.float()(image)
    box, score = worst(decoded(outputs), np.load(folder / "raw_decoded.npy"))
    assert box < 0.05
    assert score < 3e-4
    # Before decoding sizes are logarithms, so box numbers are small.
    box, score = worst(as_official(outputs, outputs.boxes), np.load(folder / "raw_undecoded.npy"))
    assert box < 1e-3
    assert score < 3e-4


def test_same_function_as_the_official_one_in_float64(nano: tuple[YOLOXNetwork, Tensor, Path]) -> None:
    """Rounding aside: the distance of the official float32 output from float64 is the one that was recorded with it."""
    network, image, folder = nano
    with torch.no_grad():
        outputs = network.double()(image.double())
    meta = json.loads((folder / "meta.json").read_text())
    box, score = worst(decoded(outputs), np.load(folder / "raw_decoded.npy"))
    assert box == pytest.approx(meta["max_abs_diff_fp64_box"], abs=1e-6)
    assert score == pytest.approx(meta["max_abs_diff_fp64_score"], abs=1e-8)


def resized_as_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's INTER_LINEAR on uint8: weights in 1/2048 and truncated sums, one grey level off the rounded result here
    and there, which moves the boxes of this network by up to 3 px."""

    def taps(source: int, target: int) -> tuple[np.ndarray, ...]:
        position = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
        first = np.floor(position).astype(np.int64)
        weight = np.rint((position - first) * 2048).astype(np.int64)
        return first, np.minimum(first + 1, source - 1), 2048 - weight, weight

    left, right, left_weight, right_weight = taps(image.shape[1], width)
    pixels = image.astype(np.int64)
    rows = pixels[:, left] * left_weight[:, None] + pixels[:, right] * right_weight[:, None]
    top, bottom, top_weight, bottom_weight = taps(image.shape[0], height)
    upper = (top_weight[:, None, None] * (rows[top] >> 4)) >> 16
    lower = (bottom_weight[:, None, None] * (rows[bottom] >> 4)) >> 16
    return (upper + lower + 2) >> 2


def test_pretrained_weights_on_a_photo(shared: Path) -> None:
    photo = np.asarray(Image.open(shared / "yolox" / "expected" / "dog.jpg").convert("RGB"))
    assert photo.shape == (576, 768, 3)
    pixels = torch.from_numpy(resized_as_opencv(photo[..., ::-1], 312, 416))
    image = torch.full((1, 3, 416, 416), 114.0)
    image[0, :, :312] = pixels.permute(2, 0, 1)
    with torch.no_grad():
        outputs = load(shared / "weights" / "yolox_nano_coco.pth")(image)
    box, score = worst(decoded(outputs), np.load(shared / "yolox" / "expected" / "dog_raw_decoded.npy"))
    assert box < 0.05
    assert score < 3e-4
