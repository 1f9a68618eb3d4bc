"""Regions of maps: at which points a box is sampled, and the masks of objects kept as crops.

The head that looks at regions, its loss and the data all speak it, so it lies below all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotimm.runtime.mask_regions import MaskRegion

SAMPLES = 2
"""Points along each side of a bin, whose values are averaged: ``sampling_ratio`` of ``torchvision.ops.roi_align``."""


def sampling_points(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Where a side of a box is sampled, as ``torchvision.ops.roi_align(aligned=True, sampling_ratio=2)`` does it.

    Args:
        low: ``[...]`` where the side begins, in cells of the map, origin at the outer edge of the first cell.
        high: ``[...]`` where it ends.
        bins: into which it is divided.

    Returns:
        ``[..., 2 * bins]`` positions on the scale of cell indices, where the centre of the first cell is 0.
    """
    count = SAMPLES * bins
    steps = (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count
    return low.unsqueeze(-1) - 0.5 + (high - low).unsqueeze(-1) * steps


class MaskCrops(NamedTuple):
    """The masks of the objects of one image, each kept for the part of the frame that holds it.

    Two tensors, however many objects there are: each tensor that a loading process hands over costs a file descriptor.
    """

    pixels: Tensor
    """uint8 ``[sum of heights * widths]`` of 0 and 1: the crops, each row by row, one after the other."""
    places: Tensor
    """int64 ``[n, 4]``: top, left, height and width of each crop, in pixels of the frame."""

    @classmethod
    def of(cls, regions: Sequence[MaskRegion]) -> MaskCrops:
        """Pack regions, in their order."""
        pixels: list[NDArray[np.uint8]] = [region.pixels.astype(np.uint8).reshape(-1) for region in regions]
        places = [(region.top, region.left, *region.pixels.shape) for region in regions]
        return cls(
            torch.from_numpy(np.concatenate(pixels) if pixels else np.zeros(0, dtype=np.uint8)),
            torch.tensor(places, dtype=torch.int64).reshape(-1, 4),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MaskCrops:
        """On another device."""
        return MaskCrops(
            self.pixels.to(device, non_blocking=non_blocking), self.places.to(device, non_blocking=non_blocking)
        )

    def sample(self, boxes: Tensor, index: Tensor, bins: int, frame: tuple[int, int]) -> Tensor:
        """What of a mask lies in each bin of a box.

        Equal to ``torchvision.ops.roi_align(mask, box, bins, sampling_ratio=2, aligned=True)`` on the mask of the whole
        frame, which is never made.

        Args:
            boxes: float32 ``[P, 4]`` xyxy in pixels of the frame, inside it.
            index: int64 ``[P]``: whose mask is sampled.
            bins: of each side.
            frame: height and width of it.

        Returns:
            float32 ``[P, bins, bins]`` in 0..1.
        """
        sizes = self.places[:, 2] * self.places[:, 3]
        begins = (sizes.cumsum(0) - sizes)[index]
        top, left, height, width = (part[:, None] for part in self.places[index].unbind(1))
        rows = _between(sampling_points(boxes[:, 1], boxes[:, 3], bins), frame[0], top, height)
        columns = _between(sampling_points(boxes[:, 0], boxes[:, 2], bins), frame[1], left, width)
        values = boxes.new_zeros(len(boxes), SAMPLES * bins, SAMPLES * bins)
        if not self.pixels.numel():
            return values[:, :bins, :bins]
        for row, row_share in rows:
            for column, column_share in columns:
                at = begins[:, None, None] + (row * width)[:, :, None] + column[:, None, :]
                share = row_share[:, :, None] * column_share[:, None, :]
                values += self.pixels[at.clamp(0, self.pixels.numel() - 1)] * share
        return values.reshape(len(boxes), bins, SAMPLES, bins, SAMPLES).mean(dim=(2, 4))


def _between(position: Tensor, side: int, start: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels of a crop that each position lies between, and the share of each; 0 outside of the crop."""
    position = position.clamp(0, side - 1)
    lower = position.floor()
    share = position - lower
    pairs = ((lower.long(), 1 - share), ((lower.long() + 1).clamp(max=side - 1), share))
    found = []
    for pixel, weight in pairs:
        inside = (pixel >= start) & (pixel < start + length)
        found.append((torch.where(inside, pixel - start, 0), weight * inside))
    return found
