"""RoIAlign over a feature pyramid, for PyTorch and, of standard operators only, for exported graphs.

Which level a region is taken from follows equation 1 of the FPN paper (arXiv:1612.03144): a box of 224 x 224 pixels at
stride 16, one of half its side at stride 8, and so on, within the levels that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from autotimm.regions import SAMPLES, sampling_points

CELLS = 28.0
"""A box whose side is so many strides of a level, or more, belongs to a coarser one: 224 pixels are 28 of stride 8."""


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level that each box is looked at on.

    Args:
        boxes: float32 ``[..., 4]`` xyxy in network-input pixels.
        strides: of the levels, finest first.

    Returns:
        int64 ``[...]``: index of a stride.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    side = (sides[..., 0] * sides[..., 1]).clamp(min=0).sqrt()
    bounds = [CELLS * stride for stride in strides[:-1]]
    level = torch.zeros_like(side, dtype=torch.int64)
    for bound in bounds:
        level = level + (side >= bound).long()
    return level


def align_regions(levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], bins: int) -> Tensor:
    """The features of some boxes, by torchvision's operator; in float32, since half precision has no pixels of boxes.

    Args:
        levels: per stride ``[N, C, H / stride, W / stride]``.
        strides: of the levels, finest first.
        boxes: per image float32 ``[n, 4]`` xyxy in network-input pixels.
        bins: of each side.

    Returns:
        ``[sum of n, C, bins, bins]``, images in order.
    """
    counts = torch.tensor([len(one) for one in boxes], device=levels[0].device)
    images = torch.repeat_interleave(torch.arange(len(boxes), device=levels[0].device), counts)
    together = torch.cat(list(boxes)).float()
    chosen = level_of(together, strides)
    regions = torch.cat((images[:, None].float(), together), dim=1)
    features = together.new_zeros(len(together), levels[0].shape[1], bins, bins)
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        at = (chosen == index).nonzero()[:, 0]
        # also where there are none, so that every level has a gradient
        aligned = roi_align(level.float(), regions[at], bins, 1.0 / stride, sampling_ratio=SAMPLES, aligned=True)
        features = features.index_copy(0, at, aligned)
    return features


def align_regions_portably(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, bins: int) -> Tensor:
    """The same for a fixed number of boxes an image, with no operator that depends on the data.

    The levels are laid below one another in one map, so that every box is sampled once, whatever its level. GridSample
    wants coordinates in -1..1, which float32 holds to some 1e-5 cells of that map.

    Args:
        levels: per stride ``[N, C, H / stride, W / stride]``.
        strides: of the levels, finest first.
        boxes: float32 ``[N, K, 4]`` xyxy in network-input pixels, inside the input.
        bins: of each side.

    Returns:
        ``[N, K, C, bins, bins]``.
    """
    width = levels[0].shape[3]
    sheet = torch.cat([F.pad(level, (0, width - level.shape[3])) for level in levels], dim=2)
    heights = [level.shape[2] for level in levels]
    chosen = level_of(boxes, strides)

    def of_level(values: Sequence[float]) -> Tensor:
        """One number a level to one a box ``[N, K]``."""
        return torch.stack([(chosen == index) * value for index, value in enumerate(values)]).sum(dim=0)

    scaled = boxes / of_level([float(stride) for stride in strides]).unsqueeze(2)
    last_row = of_level([height - 1.0 for height in heights]).unsqueeze(2)
    last_column = of_level([level.shape[3] - 1.0 for level in levels]).unsqueeze(2)
    first_row = of_level([float(sum(heights[:index])) for index in range(len(levels))]).unsqueeze(2)
    zero = torch.zeros_like(last_row)
    # positions beyond the centres of the outer cells take their values, as roi_align has it
    rows = sampling_points(scaled[..., 1], scaled[..., 3], bins).maximum(zero).minimum(last_row) + first_row
    columns = sampling_points(scaled[..., 0], scaled[..., 2], bins).maximum(zero).minimum(last_column)
    y = ((rows + 0.5) * (2.0 / sheet.shape[2]) - 1.0).unsqueeze(3).expand(-1, -1, -1, SAMPLES * bins)
    x = ((columns + 0.5) * (2.0 / width) - 1.0).unsqueeze(2).expand(-1, -1, SAMPLES * bins, -1)
    grid = torch.stack((x, y), dim=4).flatten(1, 2)
    sampled = F.grid_sample(sheet, grid, mode="bilinear", padding_mode="border", align_corners=False)
    pooled = F.avg_pool2d(sampled, SAMPLES)
    return torch.unflatten(pooled, 2, (boxes.shape[1], bins)).transpose(1, 2)
