"""One description of the pixels: the runtime's host path, the training-side evaluation and the graph give the same."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

from autotimm.data.classification import EvaluationImages
from autotimm.data.labelled import ImageFiles, LabelledImages
from autotimm.models.backbones import preprocess_of
from autotimm.models.normalize import Normalize
from autotimm.models.yolox.detector import yolox_preprocess
from autotimm.runtime import Preprocess, fit_image, load_image
from autotimm.runtime.pictures import generate

SIZES = [(1, 1), (1, 40), (37, 3), (64, 64), (480, 640), (333, 500), (3000, 4000)]
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "exif"]


def write(mode: str, image: Image.Image, folder: Path) -> Path:
    path = folder / f"{mode.replace(';', '')}.png"
    if mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        path = path.with_suffix(".jpg")
        image.save(path, exif=exif, quality=95)
    elif mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path, compress_level=1)
    elif mode == "CMYK":
        path = path.with_suffix(".tif")
        image.convert(mode).save(path)
    else:
        image.convert(mode).save(path, compress_level=1)  # the large ones take long enough
    return path


def reference_pixels(path: Path, mode: str) -> Image.Image:
    """What a person would see, by Pillow's own conversions."""
    with Image.open(path) as image:
        if mode == "I;16":
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if mode == "exif":
            return image.transpose(Image.Transpose.ROTATE_270).convert("RGB")
        return image.convert("RGB")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_host_training_and_graph_agree_on_every_mode(size: tuple[int, int], tmp_path: Path) -> None:
    classifier = preprocess_of(timm.create_model("tf_efficientnet_lite0"))
    detector = yolox_preprocess((128, 160))
    graphs = {preprocess: normalize_in_onnxruntime(preprocess) for preprocess in (classifier, detector)}
    image = Image.fromarray(generate(*size, seed=3))
    modes = MODES if max(size) < 1000 else ["L", "RGB", "exif"]  # all modes of the large one take over a minute
    for mode in modes:
        path = write(mode, image, tmp_path)
        expected = reference_pixels(path, mode)
        assert np.abs(load_image(path).astype(np.int16) - np.asarray(expected)).max() <= 1
        for preprocess, graph in graphs.items():
            host, _ = fit_image(load_image(path), preprocess)
            split = LabelledImages(ImageFiles((path,)), np.zeros(1, dtype=np.int64))
            training = EvaluationImages(split, preprocess, "refuse", "validation").load(0)
            np.testing.assert_array_equal(training.image, host)
            if preprocess is detector:
                np.testing.assert_array_equal(host, letterboxed_by_opencv(load_image(path), *detector.size))
            (in_graph,) = graph.run(None, {"images": host[None]})
            in_training = Normalize(preprocess)(torch.from_numpy(host[None])).numpy()
            np.testing.assert_allclose(in_graph, in_training, atol=1e-5)
            levels = in_graph[0].transpose(1, 2, 0) * preprocess.std + preprocess.mean
            if preprocess.channel_order == "bgr":
                levels = levels[..., ::-1]
            np.testing.assert_allclose(levels, host, atol=0.01)
        if min(expected.size) > 1:  # timm's own transform fails on an image one pixel wide
            transform = timm.data.create_transform(
                (3, *classifier.size),
                interpolation=classifier.interpolation,
                mean=[value / 255 for value in classifier.mean],
                std=[value / 255 for value in classifier.std],
                crop_pct=classifier.crop_fraction,
            )
            theirs = transform(expected).permute(1, 2, 0).numpy() * classifier.std + classifier.mean
            ours, _ = fit_image(load_image(path), classifier)
            assert np.abs(theirs - ours).max() < 1.01


def letterboxed_by_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the official YOLOX hands to its network: scaled by OpenCV, at the top left of a grey frame."""
    ratio = min(height / image.shape[0], width / image.shape[1])
    resized = max(1, int(image.shape[0] * ratio)), max(1, int(image.shape[1] * ratio))
    scaled = cv2.resize(image, (resized[1], resized[0]), interpolation=cv2.INTER_LINEAR)
    below, right = height - resized[0], width - resized[1]
    return np.pad(scaled, ((0, below), (0, right), (0, 0)), constant_values=114)


def normalize_in_onnxruntime(preprocess: Preprocess) -> onnxruntime.InferenceSession:
    buffer = io.BytesIO()
    images = torch.zeros(1, *preprocess.size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Normalize(preprocess).eval(),
            (images,),
            dynamo=True,
            opset_version=18,
            input_names=["images"],
            verbose=False,
        )
    program.save(buffer)
    return onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
