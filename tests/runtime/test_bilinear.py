"""Bit-exactness against OpenCV, which the official weights were measured with."""

import cv2
import numpy as np
import pytest

from autotimm.runtime.bilinear import Span, resize_bilinear


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    out = np.empty((height, width, 3), np.uint8)
    resize_bilinear(image, Span(image.shape[0], height, 0, height), Span(image.shape[1], width, 0, width), out)
    return out


def test_random_sizes_equal_opencv() -> None:
    random = np.random.default_rng(0)
    for _ in range(150):
        source_height, source_width, height, width = (int(side) for side in random.integers(1, 400, 4))
        image = random.integers(0, 256, (source_height, source_width, 3), dtype=np.uint8)
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(
            resized(image, height, width), expected, err_msg=f"{image.shape} {height} {width}"
        )


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((3000, 4000), (480, 640)),
        ((576, 768), (312, 416)),
        ((720, 1280), (360, 640)),
        ((480, 640), (240, 320)),
        ((100, 200), (320, 640)),
        ((1, 1), (416, 416)),
        ((1, 4000), (1, 416)),
        ((4000, 2), (416, 1)),
        ((7, 5), (7, 5)),
    ],
)
def test_usual_and_extreme_sizes_equal_opencv(source: tuple[int, int], target: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    for image in (
        random.integers(0, 256, (*source, 3), dtype=np.uint8),
        255 * random.integers(0, 2, (*source, 3), dtype=np.uint8),
    ):
        expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(resized(image, *target), expected)


def test_a_part_is_the_part_of_the_whole() -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    part = np.empty((40, 50, 3), np.uint8)
    resize_bilinear(image, Span(300, 150, 20, 60), Span(200, 170, 100, 150), part)
    np.testing.assert_array_equal(part, resized(image, 150, 170)[20:60, 100:150])
