"""Masks of objects in COCO files: polygons and run-length encodings, checked, and brought to network-input pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.runtime import rle
from autotimm.runtime.errors import DataError
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.preprocess import Placement

Rle = dict[str, Any]
"""COCO's compressed form: ``{"size": [height, width], "counts": text}``; a few hundred bytes an object."""
LEAST_INSIDE = 0.5
"""Part of a mask's extent that lies in the annotated box: with less, one of them is of another object. A mask that is
much smaller than its box is no mistake that can be told from a coarse polygon."""


def read_mask(row: Mapping[str, Any], size: tuple[int, int], name: str, bad: BadAnnotations) -> Rle | None:
    """The mask of one annotation of a COCO file.

    Args:
        row: the annotation, with a ``segmentation`` of polygons, or of counts as numbers or text.
        size: ``(height, width)`` of the image.
        name: of the image, for messages.
        bad: takes what cannot be used.

    Returns:
        The mask; ``None`` where it was added to ``bad``.
    """
    segmentation = row.get("segmentation")
    where = f"{name} (id {row.get('id', '?')})"
    if not segmentation:
        bad.add("annotations without a mask (segmentation)", where)
        return None
    if isinstance(segmentation, Mapping):
        found = _checked_counts(segmentation, size, where, bad)
    else:
        found = _drawn(segmentation, size, where, bad)
    if found is None:
        return None
    mask, area, extent = found
    if not area:
        bad.add("masks without a pixel", where)
        return None
    if _part_inside(extent, row["bbox"]) < LEAST_INSIDE:
        corners = ", ".join(f"{side:g}" for side in extent)
        bad.add("masks that are not in their box (bbox)", f"{where}: box {row['bbox']}, mask [{corners}]")
        return None
    return mask


_Found = tuple[Rle, int, Sequence[float]]
"""A mask, its pixels, and its extent: x, y, width and height."""


def _drawn(polygons: Any, size: tuple[int, int], where: str, bad: BadAnnotations) -> _Found | None:
    """Polygons as a mask; as pycocotools draws them, on which COCO's figures rest."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str):
        bad.add("masks that are neither polygons nor RLE", where)
        return None
    for polygon in polygons:
        if not isinstance(polygon, Sequence) or not all(_is_number(value) for value in polygon):
            bad.add("polygons with something else than numbers", where)
            return None
        if len(polygon) < 6 or len(polygon) % 2:
            bad.add("polygons with fewer than three points, or half a point", f"{where}: {len(polygon)} numbers")
            return None
    height, width = size
    farthest = 2.0 * max(size)  # pycocotools counts in 32 bits
    parts = [[min(max(float(value), -farthest), 2 * farthest) for value in polygon] for polygon in polygons]
    return _measured(coco_masks.merge(coco_masks.frPyObjects(parts, height, width)))


def _checked_counts(
    segmentation: Mapping[str, Any], size: tuple[int, int], where: str, bad: BadAnnotations
) -> _Found | None:
    """Counts as a mask, after what pycocotools would not look at."""
    said = segmentation.get("size")
    if not isinstance(said, Sequence) or tuple(said) != size:
        bad.add("RLE masks of another size than their image", f"{where}: {said}, the image is {list(size)}")
        return None
    try:
        lengths = rle.read_counts(segmentation.get("counts", ""))
    except DataError:
        bad.add("RLE masks that cannot be read", where)
        return None
    if not rle.fills(lengths, size):
        bad.add("RLE masks whose counts do not make up their image", f"{where}: {lengths.sum()} of {size[0] * size[1]}")
        return None
    return _measured({"size": list(size), "counts": rle.compress(lengths).encode()})


def _measured(mask: Mapping[str, Any]) -> _Found:
    text = {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode()}
    return text, int(coco_masks.area(mask)), coco_masks.toBbox(mask).tolist()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _part_inside(extent: Sequence[float], box: Any) -> float:
    """How much of an extent lies in a box, both x, y, width, height; a pixel beside it is let pass."""
    try:
        pairs = [(float(a), float(b)) for a, b in zip(extent, box, strict=True)]
    except (TypeError, ValueError, OverflowError):
        return 1.0  # no box; that is said where boxes are read
    inside = 1.0
    for (start, other), (length, other_length) in zip(pairs[:2], pairs[2:], strict=True):
        shared = min(start + length, other + other_length + 1) - max(start, other - 1)
        inside *= max(0.0, shared) / length
    return inside


def region_of(mask: Rle) -> MaskRegion:
    """The part of an image that a mask lies in. Only its columns are unrolled, however large the image is."""
    height = int(mask["size"][0])
    lengths = rle.decompress(mask["counts"])
    ends = np.cumsum(lengths)
    ones = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not len(ones):
        return MaskRegion(0, 0, np.zeros((0, 0), dtype=np.bool_))
    left = int((ends[ones[0]] - lengths[ones[0]]) // height)
    right = int((ends[ones[-1]] - 1) // height) + 1
    inside = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    values = np.zeros(len(inside), dtype=np.bool_)
    values[1::2] = True
    columns = np.repeat(values, inside).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    return MaskRegion(int(rows[0]), left, np.ascontiguousarray(columns[:, rows[0] : rows[-1] + 1].T))


def placed(region: MaskRegion, placement: Placement, mirrored: bool, size: tuple[int, int]) -> MaskRegion:
    """A region of a source image as it lies in the network input: each pixel of that takes the source pixel under its
    centre.

    Args:
        region: in source pixels.
        placement: of the image in the network input.
        mirrored: left and right of the image are exchanged first.
        size: ``(height, width)`` of the network input.

    Returns:
        In network-input pixels; empty where nothing of it is inside.
    """
    pixels, left = region.pixels, region.left
    if mirrored:
        pixels, left = pixels[:, ::-1], placement.source_size[1] - left - pixels.shape[1]
    (scale_y, scale_x), (offset_y, offset_x) = placement.scale, placement.offset
    top_row, rows = _lines(region.top, pixels.shape[0], scale_y, offset_y, size[0])
    left_column, columns = _lines(left, pixels.shape[1], scale_x, offset_x, size[1])
    return MaskRegion(top_row, left_column, pixels[rows[:, None], columns])


def _lines(start: int, length: int, scale: float, offset: int, side: int) -> tuple[int, NDArray[np.intp]]:
    """The first pixel of the network input on which some lines of a region lie, and for each from there on which."""
    first = max(0, math.ceil(start * scale + offset - 0.5))
    last = min(side, math.ceil((start + length) * scale + offset - 0.5))
    centers = (np.arange(first, max(first, last)) + 0.5 - offset) / scale
    return first, (np.floor(centers).astype(np.intp) - start).clip(0, length - 1)
