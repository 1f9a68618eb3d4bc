"""The mask of one object, kept for the part of the image that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime import rle


@dataclass(frozen=True, eq=False)
class MaskRegion:
    """A rectangle of a mask, in source pixels; outside of it the mask is empty.

    A hundred objects in a photograph of 12 megapixels would take 1.2 GB as whole masks.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]
    """``[h, w]``, which lies inside the image."""

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> MaskRegion:
        """The smallest rectangle of a whole mask ``[H, W]`` that holds the object; empty where there is none."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(0, 0, np.zeros((0, 0), bool))
        top, left = int(rows[0]), int(columns[0])
        return cls(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(bool))

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(np.count_nonzero(self.pixels))

    def paint(self, canvas: NDArray[Any], value: Any) -> None:
        """Write ``value`` where the object is, into an array ``[H, W]`` or ``[H, W, channels]`` of image size."""
        height, width = self.pixels.shape
        canvas[self.top : self.top + height, self.left : self.left + width][self.pixels] = value

    def whole(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask of the whole image, bool ``[H, W]``."""
        mask = np.zeros(size, bool)
        height, width = self.pixels.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return mask

    def rle(self, size: tuple[int, int]) -> dict[str, Any]:
        """As COCO's compressed RLE of an image of this ``(height, width)``."""
        return rle.encode(self.pixels, self.top, self.left, size)

    def intersection(self, other: MaskRegion) -> int:
        """Pixels that both objects cover."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom = min(self.top + self.pixels.shape[0], other.top + other.pixels.shape[0])
        right = min(self.left + self.pixels.shape[1], other.left + other.pixels.shape[1])
        if top >= bottom or left >= right:
            return 0
        ours, theirs = (
            one.pixels[top - one.top : bottom - one.top, left - one.left : right - one.left] for one in (self, other)
        )
        return int(np.count_nonzero(ours & theirs))

    def iou(self, other: MaskRegion) -> float:
        """Intersection over union; two empty masks are equal."""
        shared = self.intersection(other)
        union = self.area + other.area - shared
        return shared / union if union else 1.0
