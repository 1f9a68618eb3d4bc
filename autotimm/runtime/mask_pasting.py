"""The mask head's grid of probabilities, pasted into the image at the place of its box.

The arithmetic is that of torchvision's ``paste_masks_in_image`` with its padding of one cell, so that masks and their
AP compare with what Mask R-CNN users know: the grid gets a border of zeros and the box grows with it; its corners are
cut to whole pixels; the grid is stretched over them bilinearly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.mask_regions import MaskRegion


def paste_masks(
    probabilities: NDArray[np.floating], boxes: NDArray[np.float32], size: tuple[int, int], threshold: float
) -> tuple[MaskRegion, ...]:
    """Paste the masks of one image.

    Args:
        probabilities: ``[n, m, m]`` over each box.
        boxes: ``[n, 4]`` xyxy in source pixels, which may reach out of the image.
        size: ``(height, width)`` of the image.
        threshold: a pixel belongs to the object where its probability is greater.

    Returns:
        One region a mask, of the size of its box.
    """
    if not len(boxes):
        return ()
    grid = np.pad(probabilities.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    corners = _expanded(boxes.astype(np.float32), grid.shape[-1] / probabilities.shape[-1])
    return tuple(_paste(cells, box, size, threshold) for cells, box in zip(grid, corners.tolist(), strict=True))


def _expanded(boxes: NDArray[np.float32], scale: float) -> NDArray[np.int64]:
    """Boxes grown about their centres, in whole pixels."""
    middle = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32(scale)
    return np.concatenate([middle - half, middle + half], axis=1).astype(np.int64)


def _paste(
    cells: NDArray[np.float32], box: tuple[int, int, int, int], size: tuple[int, int], threshold: float
) -> MaskRegion:
    x1, y1, x2, y2 = box
    top, bottom = max(y1, 0), min(y2 + 1, size[0])
    left, right = max(x1, 0), min(x2 + 1, size[1])
    if top >= bottom or left >= right:
        return MaskRegion(0, 0, np.zeros((0, 0), bool))
    rows = _positions(cells.shape[0], y2 - y1 + 1, top - y1, bottom - y1)
    columns = _positions(cells.shape[1], x2 - x1 + 1, left - x1, right - x1)
    # Columns first: what remains to be stretched are rows, which numpy copies and adds whole. Two matrix products would
    # be shorter, but their threads and those of the engine that has just run slow each other tenfold on a busy CPU.
    stretched = np.ascontiguousarray(_between(cells.T, columns).T)
    return MaskRegion(top, left, _between(stretched, rows) > threshold)


def _positions(cells: int, length: int, start: int, stop: int) -> NDArray[np.float32]:
    """Where the pixels ``start`` to ``stop`` of ``length`` lie among ``cells`` (pixel centres, the outer cells
    continued outwards: ``align_corners=False``).
    """
    scale = np.float32(cells / length)
    position: NDArray[np.float32] = scale * (np.arange(start, stop, dtype=np.float32) + 0.5) - 0.5
    return position.clip(0, cells - 1)


def _between(lines: NDArray[np.float32], positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lines ``[len(positions), ...]`` interpolated linearly between those of ``lines``."""
    first = positions.astype(np.int64)
    share = (positions - first.astype(np.float32))[:, None]
    lower = lines[first]
    upper = lines[np.minimum(first + 1, len(lines) - 1)]
    lower *= 1 - share
    upper *= share
    lower += upper
    return lower
