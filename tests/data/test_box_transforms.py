from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from autotimm.data.box_transforms import BoxAugmentation, augment_boxed, check_box_augmentation
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.preprocess import Preprocess

LETTERBOX = Preprocess((96, 96), fit="letterbox", align="top_left", antialias=False)


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def marked(boxes: np.ndarray, height: int = 80, width: int = 120) -> np.ndarray:
    """Black, with a white rectangle where each box is."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("augmentation", get_args(BoxAugmentation))
@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_a_box_stays_on_its_object(augmentation: BoxAugmentation, size: tuple[int, int]) -> None:
    box = np.array([[30, 20, 70, 60]], dtype=np.float32)
    preprocess = replace(LETTERBOX, size=size, pad_value=0)
    kept_once = False
    for seed in range(60):
        frame, boxes, kept = augment_boxed(marked(box), box, preprocess, augmentation, seed)
        assert frame.shape == (*size, 3)
        assert kept.sum() == len(boxes)
        if not kept[0]:
            continue
        kept_once = True
        rows, columns = np.nonzero(frame[..., 0] > 60)  # whatever the jitter has done to white
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], seen, atol=1.01)
    assert kept_once


def test_scale_and_place_vary_and_padding_does_not() -> None:
    box = np.array([[40, 30, 60, 50]], dtype=np.float32)
    white = np.full((80, 120, 3), 255, dtype=np.uint8)
    widths, grey = [], 0
    for seed in range(80):
        frame, boxes, _ = augment_boxed(white, box, LETTERBOX, "default", seed)
        widths += (boxes[:, 2] - boxes[:, 0]).tolist()
        grey += int((frame == 114).all(axis=2).sum())
        assert set(np.unique(frame[..., 0])) <= {114, *range(150, 256)}  # padding, and white made darker
    assert grey > 0
    whole = 20 * 96 / 120
    assert 0.45 * whole < min(widths) < 0.7 * whole
    assert 1.3 * whole < max(widths) < 1.55 * whole


def test_boxes_that_lose_most_of_their_area_are_dropped() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 70, (30, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + random.uniform(4, 40, (30, 2)).astype(np.float32)], axis=1)
    boxes = np.minimum(boxes, 79)
    dropped = 0
    for seed in range(40):
        _, left, kept = augment_boxed(picture(80, 80), boxes, LETTERBOX, "default", seed)
        assert kept.shape == (30,)
        assert (left >= 0).all()
        assert (left <= 96).all()
        assert ((left[:, 2:] - left[:, :2]) >= 2).all()
        dropped += int((~kept).sum())
    assert dropped > 0


def test_no_boxes_and_extreme_images() -> None:
    nothing = np.zeros((0, 4), dtype=np.float32)
    for shape in ((1, 1), (1, 300), (300, 1)):
        for seed in range(10):
            frame, boxes, kept = augment_boxed(picture(*shape), nothing, LETTERBOX, "default", seed)
            assert frame.shape == (96, 96, 3)
            assert boxes.shape == (0, 4)
            assert kept.shape == (0,)


@pytest.mark.parametrize("name", ["strong", "randaugment", "rand-m9-mstd0.5", "ligth"])
def test_only_what_moves_boxes_along_is_taken(name: str) -> None:
    with pytest.raises(ConfigError, match=r"augmentation of images with boxes or masks.*default, light, none"):
        check_box_augmentation(name)
