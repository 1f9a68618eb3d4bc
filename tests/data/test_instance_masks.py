from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.instance_masks import placed, read_mask, region_of
from autotimm.runtime.errors import DataError
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.rle import run_lengths

SIZE = (30, 40)
TRIANGLE = [4.0, 5.0, 24.0, 5.0, 14.0, 20.5]
SQUARE = [28.0, 3.0, 36.0, 3.0, 36.0, 11.0, 28.0, 11.0]
BOX = [0, 0, 40, 30]


def disc() -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - 12) ** 2 + (columns - 30) ** 2 < 81)


def read(segmentation: Any, box: Any = BOX) -> tuple[dict[str, Any] | None, BadAnnotations]:
    bad = BadAnnotations("refuse")
    row = {"id": 7, "bbox": box, "segmentation": segmentation}
    return read_mask(row, SIZE, "a.png", bad), bad


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools' own arrays
def test_polygons_are_drawn_as_pycocotools_does() -> None:
    mask, bad = read([TRIANGLE, SQUARE])
    assert mask is not None
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([TRIANGLE, SQUARE], *SIZE))).astype(bool)
    np.testing.assert_array_equal(region_of(mask).whole(SIZE), expected)
    assert not bad.counts


@pytest.mark.parametrize("form", ["numbers", "text", "bytes"])
def test_rle_of_every_kind(form: str) -> None:
    lengths = run_lengths(disc(), 0, 0, SIZE)
    encoded = coco_masks.encode(np.asfortranarray(disc().astype(np.uint8)))
    counts = {"numbers": lengths.tolist(), "text": encoded["counts"].decode(), "bytes": encoded["counts"]}[form]
    mask, bad = read({"size": list(SIZE), "counts": counts})
    assert mask is not None
    assert mask["counts"] == encoded["counts"].decode()
    np.testing.assert_array_equal(region_of(mask).whole(SIZE), disc())
    assert not bad.counts


def test_only_the_columns_of_a_region_are_unrolled() -> None:
    """A mask in the corners of a large image, and one of a single pixel in its last corner."""
    whole = np.zeros(SIZE, dtype=bool)
    whole[29, 39] = True
    for one in (whole, whole | whole[::-1, ::-1], np.ones(SIZE, dtype=bool)):
        mask = {"size": list(SIZE), "counts": coco_masks.encode(np.asfortranarray(one.astype(np.uint8)))["counts"]}
        region = region_of(mask)
        np.testing.assert_array_equal(region.whole(SIZE), one)
        assert region.pixels.shape == MaskRegion.of(one).pixels.shape


COUNTS = run_lengths(disc(), 0, 0, SIZE).tolist()


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        (None, "annotations without a mask"),
        ([], "annotations without a mask"),
        ([[1.0, 2.0, 3.0, 4.0]], "polygons with fewer than three points"),
        ([TRIANGLE, [1.0, 2.0, 3.0, 4.0]], "polygons with fewer than three points"),
        ([TRIANGLE[:-1]], "half a point"),
        ([[1.0, 2.0, float("nan"), 4.0, 9.0, 9.0]], "something else than numbers"),
        ([["1", "2", "3", "4", "5", "6"]], "something else than numbers"),
        ([7.0, 8.0], "something else than numbers"),
        ("5", "neither polygons nor RLE"),
        ([[5.0, 5.0, 5.0, 5.0, 5.0, 5.0]], "masks without a pixel"),
        ([[90.0, 90.0, 99.0, 90.0, 99.0, 99.0]], "masks without a pixel"),
        ({"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}, "masks without a pixel"),
        ({"size": [40, 30], "counts": COUNTS}, "RLE masks of another size than their image"),
        ({"counts": COUNTS}, "RLE masks of another size than their image"),
        ({"size": list(SIZE), "counts": COUNTS[:-1]}, "whose counts do not make up their image"),
        ({"size": list(SIZE), "counts": [1300, -100]}, "whose counts do not make up their image"),
        ({"size": list(SIZE), "counts": [2**62] * 4 + [SIZE[0] * SIZE[1]]}, "whose counts do not make up their image"),
        ({"size": list(SIZE), "counts": "PP"}, "RLE masks that cannot be read"),
        ({"size": list(SIZE), "counts": "zz"}, "RLE masks that cannot be read"),
        ({"size": list(SIZE), "counts": "5\x7f"}, "RLE masks that cannot be read"),
        ({"size": list(SIZE), "counts": ["a"]}, "RLE masks that cannot be read"),
        ({"size": list(SIZE)}, "RLE masks that"),
    ],
)
def test_masks_that_cannot_be_used(segmentation: Any, kind: str) -> None:
    mask, bad = read(segmentation)
    assert mask is None
    assert [count for name, count in bad.counts.items() if kind in name] == [1]
    with pytest.raises(DataError, match=r"a\.png \(id 7\)"):
        bad.settle(Path("val.json"), [])


def test_a_mask_must_be_in_its_box() -> None:
    """A mask that is smaller than the box is let pass, as is a pixel beside it."""
    assert read([TRIANGLE], [4, 5, 20, 15.5])[0] is not None
    assert read([TRIANGLE], [0, 0, 39, 29])[0] is not None
    mask, bad = read([TRIANGLE], [25, 5, 10, 10])
    assert mask is None
    assert list(bad.counts) == ["masks that are not in their box (bbox)"]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "placement",
    [
        Placement(SIZE, SIZE, (0, 0)),
        Placement(SIZE, (66, 88), (-10, 3)),
        Placement(SIZE, (19, 26), (8, -5)),
        Placement(SIZE, (30, 40), (60, 60)),
    ],
)
def test_masks_go_where_their_pixels_go(placement: Placement, mirrored: bool) -> None:
    """Each pixel of the frame looks up the source pixel under its centre: the whole image as the mask's region does."""
    frame = (48, 64)
    source = disc()
    expected = np.zeros(frame, dtype=bool)
    flipped = source[:, ::-1] if mirrored else source
    for row, column in np.ndindex(*frame):
        y = (row + 0.5 - placement.offset[0]) / placement.scale[0]
        x = (column + 0.5 - placement.offset[1]) / placement.scale[1]
        if 0 <= y < SIZE[0] and 0 <= x < SIZE[1]:
            expected[row, column] = flipped[int(y), int(x)]
    found = placed(MaskRegion.of(source), placement, mirrored, frame)
    whole = np.zeros(frame, dtype=bool)
    found.paint(whole, value=True)
    np.testing.assert_array_equal(whole, expected)
    assert expected.any() == (placement.offset != (60, 60))
