from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from autotimm.data.transforms import Augmentation, augment_boxed, augment_labelled, check_augmentation
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

LETTERBOX = Preprocess((96, 96), fit="letterbox", align="top_left", antialias=False)
CROP = Preprocess((64, 64), fit="crop", interpolation="bicubic", crop_fraction=0.875)


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
@pytest.mark.parametrize("preprocess", [CROP, LETTERBOX, replace(CROP, interpolation="lanczos")])
def test_the_same_seed_gives_the_same_pixels(augmentation: Augmentation, preprocess: Preprocess) -> None:
    first, again = (augment_labelled(picture(), preprocess, augmentation, seed=5) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == (*preprocess.size, 3)
    np.testing.assert_array_equal(first, again)
    seeds = [augment_labelled(picture(), preprocess, augmentation, seed).tobytes() for seed in range(8)]
    assert len(set(seeds)) == {"default": 8, "light": 2, "none": 1}[augmentation]


def test_torchs_generator_is_left_as_it_was() -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    augment_labelled(picture(), CROP, "default", seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_light_is_the_evaluations_resize_or_its_mirror_image() -> None:
    plain = fit_image(picture(), CROP)[0]
    mirrored = fit_image(np.ascontiguousarray(picture()[:, ::-1]), CROP)[0]
    seen = {augment_labelled(picture(), CROP, "light", seed).tobytes() for seed in range(8)}
    assert seen == {plain.tobytes(), mirrored.tobytes()}


def marked(boxes: np.ndarray, height: int = 80, width: int = 120) -> np.ndarray:
    """Black, with a white rectangle where each box is."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 255
    return image


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_a_box_stays_on_its_object(augmentation: Augmentation, size: tuple[int, int]) -> None:
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
            assert augment_labelled(picture(*shape), CROP, "default", seed).shape == (64, 64, 3)


def test_unknown_augmentation() -> None:
    with pytest.raises(ConfigError, match="did you mean light"):
        check_augmentation("ligth")
