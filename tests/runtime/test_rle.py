import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from autotimm.runtime import DataError, MaskRegion, rle


def masks() -> list[np.ndarray]:
    """Random masks of many sizes and densities, whole ones, empty ones, one pixel, columns that run on."""
    random = np.random.default_rng(0)
    made = [random.random(random.integers(1, 60, 2)) < random.choice([0.02, 0.3, 0.5, 0.98]) for _ in range(60)]
    made += [np.full(size, value) for size in [(1, 1), (1, 9), (9, 1), (7, 5)] for value in (False, True)]
    for row, column in ((0, 0), (0, 5), (6, 0), (6, 5), (3, 2)):
        made.append(np.zeros((7, 6), bool))
        made[-1][row, column] = True
    columns = np.zeros((50, 4000), bool)  # long runs, whose counts take several letters
    columns[:, 100:3500] = True
    return [*made, columns]


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_the_text_is_that_of_pycocotools(mask: np.ndarray) -> None:
    size = tuple(mask.shape)
    expected = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    for region in (MaskRegion(0, 0, mask), MaskRegion.of(mask)):
        found = json.loads(json.dumps(region.rle(size)))
        assert found == {"size": list(size), "counts": expected["counts"].decode()}
        assert region.area == coco_mask.area(expected)
    np.testing.assert_array_equal(rle.decode(found), mask)
    np.testing.assert_array_equal(rle.decode(expected), mask)  # bytes
    uncompressed = {"size": list(size), "counts": rle.run_lengths(mask, 0, 0, size).tolist()}
    np.testing.assert_array_equal(rle.decode(uncompressed), mask)
    assert coco_mask.frPyObjects([uncompressed], *size)[0]["counts"] == expected["counts"]


def test_overlaps_are_those_of_pycocotools() -> None:
    random = np.random.default_rng(1)
    whole = [np.zeros((40, 50), bool) for _ in range(12)]
    for mask in whole:
        (top, bottom), (left, right) = (np.sort(random.integers(0, side + 1, 2)) for side in mask.shape)
        mask[top:bottom, left:right] = random.random((bottom - top, right - left)) < 0.7
    regions = [MaskRegion.of(mask) for mask in whole]
    encoded = coco_mask.encode(np.asfortranarray(np.stack(whole, axis=2), dtype=np.uint8))
    expected = coco_mask.iou(encoded, encoded, [0] * len(whole))
    found = [[first.iou(second) for second in regions] for first in regions]
    filled = np.array([region.area > 0 for region in regions])
    assert filled.sum() > 8
    np.testing.assert_allclose(np.array(found)[np.ix_(filled, filled)], expected[np.ix_(filled, filled)])
    nothing = MaskRegion.of(np.zeros((4, 4), bool))
    assert (nothing.iou(nothing), nothing.iou(regions[0]), nothing.area) == (1.0, 0.0, 0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"size": [3, 4], "counts": [5, 6]}, r"add up to 11 pixels, but its size 3 x 4 \(height x width\) has 12"),
        ({"size": [3, 4], "counts": [13, -1]}, "add up to 12 pixels"),
        ({"size": [4, 4], "counts": "0<"}, "add up to 12 pixels"),
        ({"size": [3, 4], "counts": ""}, "not readable"),
        ({"size": [3, 4], "counts": "0~"}, "not readable"),
        ({"size": [3, 4], "counts": "0\n"}, "not readable"),
        ({"size": [3, 4], "counts": "0P"}, "not readable"),  # says that more letters follow
        ({"size": [3, 4], "counts": "PPP"}, "not readable"),
        ({"size": [3, 4], "counts": "P" * 20 + "0"}, "not readable"),
        ({"size": [3, 4], "counts": [2**62] * 4 + [12]}, "add up to 12 pixels"),  # in 64 bits
        ({"size": [-3, -4], "counts": [12]}, "its size -3 x -4"),
        ({"size": [3, 4], "counts": ["a"]}, "must be text or whole numbers"),
        ({"size": [3, 4], "counts": None}, "must be text or whole numbers"),
        ({"size": [3], "counts": [12]}, "must have 'size'"),
        ({"counts": [12]}, "must have 'size'"),
        (7, "must have 'size'"),
    ],
)
def test_counts_that_are_not_a_mask(broken: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rle.decode(broken)
