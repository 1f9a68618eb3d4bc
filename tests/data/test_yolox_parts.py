"""The parts of the YOLOX augmentation, each against pixels that are found again or a second implementation."""

import math

import cv2
import numpy as np
import pytest

from autotimm.data.affine import affine_matrix, moved_boxes, random_affine, warp, worth_keeping
from autotimm.data.box_mixup import mixup
from autotimm.data.boxed import BoxedPixels
from autotimm.data.hsv import jitter_hsv, shifted_hsv
from autotimm.data.image_cache import ImageCache
from autotimm.data.mosaic import mosaic
from autotimm.runtime.pictures import generate
from autotimm.runtime.preprocess import Preprocess

LETTERBOX = Preprocess((96, 128), fit="letterbox", align="top_left", antialias=False, pad_value=0)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], dtype=np.uint8)


def picture(boxes: list[tuple[int, int, int, int]], size: tuple[int, int], first: int = 0) -> BoxedPixels:
    """Black, with a rectangle of its own colour where each box is; the label is the colour."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    labels = np.arange(first, first + len(boxes))
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[y1:y2, x1:x2] = COLOURS[label]
    return BoxedPixels(image, np.array(boxes, dtype=np.float32).reshape(-1, 4), labels)


def found(image: np.ndarray, label: int, level: int = 128) -> list[int] | None:
    """The upright box around the pixels that are nearer to a colour than to black."""
    lit = image >= level
    rows, columns = np.nonzero((lit == (COLOURS[label] > 0)).all(axis=2))
    return None if not len(rows) else [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def turned(angle: float, **changes: object) -> np.ndarray:
    settings = {"rotation": angle, "scale": 1.3, "shear": (2.0, -1.5), "centre": (0.45, 0.55), **changes}
    return affine_matrix((160, 200), (96, 128), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("angle", [-10.0, 0.0, 7.0])
def test_warp_is_opencvs(angle: float) -> None:
    image = generate(160, 200, 3)
    matrix = turned(angle)
    # OpenCV's coordinates begin in the middle of a pixel, ours at its edge
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    theirs = cv2.warpAffine(
        image, (np.linalg.inv(shift) @ matrix @ shift)[:2], (128, 96), flags=cv2.INTER_LINEAR, borderValue=(114,) * 3
    )
    ours = warp(image, matrix, (96, 128), 114)
    assert ours.shape == (96, 128, 3)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 4  # OpenCV rounds places to 1/32 pixel
    assert difference.mean() < 0.1


def test_the_matrix_is_opencvs_rotation_about_the_middle() -> None:
    matrix = turned(8.0, shear=(0.0, 0.0), centre=(0.5, 0.5))
    expected = cv2.getRotationMatrix2D((100, 80), 8.0, 1.3)
    expected[:, 2] += [64 - 100, 48 - 80]
    np.testing.assert_allclose(matrix[:2], expected, atol=1e-9)
    # x shear as a hand computes it: a point 10 below the middle moves by 10 tan(5 degrees) to the right
    sheared = turned(0.0, scale=1.0, shear=(5.0, 0.0), centre=(0.5, 0.5)) @ [100, 90, 1]
    np.testing.assert_allclose(sheared[:2], [64 + 10 * math.tan(math.radians(5)), 58])


def test_boxes_follow_the_pixels() -> None:
    assert sum(followed(seed) for seed in range(30)) > 20


def followed(seed: int) -> int:
    """How many boxes lie wholly inside; those fit their pixels exactly."""
    boxes = [(40, 30, 90, 70), (110, 40, 160, 60), (60, 100, 75, 140), (120, 90, 170, 130)]
    given = picture(boxes, (160, 200))
    made = random_affine(
        given,
        (96, 128),
        rotation=10,
        scale=(0.5, 1.2),
        shear=2,
        translation=0.1,
        pad_value=0,
        random=np.random.default_rng(seed),
    )
    whole = 0
    assert (made.boxes >= 0).all()
    assert (made.boxes <= [128, 96, 128, 96]).all()
    for box, label in zip(made.boxes, made.labels, strict=True):
        inside = found(made.image, int(label))
        assert inside is not None
        if (box > 0).all() and (box < [128, 96, 128, 96]).all():
            whole += 1
            np.testing.assert_allclose(box, inside, atol=1.6)
        # of a turned rectangle that is cut off, less is seen than the box around all of it holds
        assert (box[:2] <= np.array(inside[:2]) + 1.6).all()
        assert (box[2:] >= np.array(inside[2:]) - 1.6).all()
    return whole


def test_the_rule_for_boxes() -> None:
    before = np.array([[0, 0, 10, 10]] * 5 + [[0, 0, 100, 4]], dtype=np.float32)
    after = np.array(
        [[0, 0, 10, 10], [0, 0, 2, 10], [0, 0, 10, 2.1], [0, 0, 10, 1.9], [0, 0, 4, 5], [0, 0, 90, 4]],
        dtype=np.float32,
    )
    assert worth_keeping(before, after).tolist() == [True, False, True, False, False, False]
    assert worth_keeping(before, after, min_side=5).tolist() == [True, False, False, False, False, False]
    assert moved_boxes(np.zeros((0, 4), dtype=np.float32), turned(3.0)).shape == (0, 4)


@pytest.mark.parametrize("seed", range(8))
def test_a_mosaic_has_four_images_around_its_centre(seed: int) -> None:
    sizes = [(96, 128), (60, 50), (200, 300), (40, 128)]
    four = [picture([(10, 10, size[1] - 10, size[0] - 10)], size, first) for first, size in enumerate(sizes)]
    made = mosaic(four, LETTERBOX, np.random.default_rng(seed))
    assert made.image.shape == (192, 256, 3)
    assert made.labels.tolist() == [0, 1, 2, 3]
    centre = np.random.default_rng(seed).uniform(0.5, 1.5, 2) * (96, 128)
    for label, box in enumerate(made.boxes):
        inside = found(made.image, label)
        if inside is None:
            assert min(box[2] - box[0], box[3] - box[1]) < 1.01
            continue
        np.testing.assert_allclose(box, inside, atol=1.01)
        assert (inside[3] <= centre[0] + 1) if label < 2 else (inside[1] >= centre[0] - 1)
        assert (inside[2] <= centre[1] + 1) if label % 2 == 0 else (inside[0] >= centre[1] - 1)


@pytest.mark.parametrize("seed", range(12))
def test_mixup_is_the_mean_of_both(seed: int) -> None:
    base = picture([(20, 20, 60, 60)], (96, 128))
    partner = picture([(30, 20, 80, 50), (5, 5, 40, 15)], (70, 110), 1)
    made = mixup(base, partner, (0.5, 1.5), LETTERBOX, np.random.default_rng(seed))
    assert made.image.shape == (96, 128, 3)
    assert made.labels[0] == 0
    np.testing.assert_array_equal(made.boxes[0], base.boxes[0])
    alone = made.image.astype(int) - (base.image >> 1)  # red is in none of the partner's colours
    assert alone.min() >= 0
    for box, label in zip(made.boxes[1:], made.labels[1:], strict=True):
        np.testing.assert_allclose(box, found(alone, int(label), 64), atol=1.01)
    small = partner._replace(boxes=np.array([[0, 0, 3, 3], [8, 8, 10, 10]], dtype=np.float32))
    assert mixup(base, small, (0.5, 0.5), LETTERBOX, np.random.default_rng(seed)) is base


@pytest.mark.parametrize("shift", [(5, 0, 0), (-5, 0, 0), (0, 30, 0), (0, -25, 0), (0, 0, 30), (3, -20, 18)])
def test_hsv_is_opencvs(shift: tuple[int, int, int]) -> None:
    image = generate(64, 80, 1)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + shift[0]) % 180
    hsv[..., 1:] = np.clip(hsv[..., 1:] + shift[1:], 0, 255)
    theirs = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    difference = np.abs(shifted_hsv(image, *shift).astype(int) - theirs)
    # OpenCV goes through uint8 hues also where they do not change
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 4


def test_hsv_amounts() -> None:
    image = generate(16, 16, 0)
    made = [jitter_hsv(image, (5, 30, 30), np.random.default_rng(seed)) for seed in range(40)]
    assert any((one == image).all() for one in made)
    assert len({one.tobytes() for one in made}) > 20
    brightest = [int(one.max()) - int(image.max()) for one in made]
    assert min(brightest) >= -31
    grey = np.full((1, 1, 3), 100, dtype=np.uint8)
    assert {int(jitter_hsv(grey, (0, 0, 30), np.random.default_rng(seed))[0, 0, 0]) for seed in range(2000)} == {
        *range(71, 130)
    }


def test_the_cache_keeps_what_was_used_last() -> None:
    loaded = []

    def load(index: int) -> np.ndarray:
        loaded.append(index)
        return np.full((10, 10, 3), index, dtype=np.uint8)

    cache = ImageCache(650)
    for index in (0, 1, 0, 2, 0, 1):
        assert cache.get(index, load)[0, 0, 0] == index
    assert loaded == [0, 1, 2, 1]  # two fit; 1 was forgotten for 2
    assert (len(cache), cache.held) == (2, 600)
    nothing = ImageCache(0)
    nothing.get(0, load)
    nothing.get(0, load)
    assert (len(nothing), loaded[-2:]) == (0, [0, 0])
