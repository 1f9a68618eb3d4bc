"""The feature pyramid network (arXiv:1612.03144), with the further levels of FCOS."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramid(nn.Module):
    """Maps of a backbone to maps of equal channels, coarse features flowing down; then coarser levels of the last.

    Every lateral and every output is normalised, since the maps of some families (ConvNeXt, Swin) are large sums that
    no norm has seen. Further levels are made of P5, not of the backbone's map, and are not normalised.

    Args:
        in_channels: of each map, finest first.
        channels: of every level.
        extra_levels: further levels, each at twice the stride of the one before.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, extra_levels: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_convolution(count, channels, 1) for count in in_channels)
        self.outputs = nn.ModuleList(_convolution(channels, channels, 3) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Compute the levels.

        Args:
            maps: of the backbone ``[N, in_channels, H, W]``, finest first, each half as large as the one before.

        Returns:
            The levels, finest first.
        """
        sums = [lateral(features) for lateral, features in zip(self.laterals, maps, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            sums[level - 1] = sums[level - 1] + F.interpolate(sums[level], scale_factor=2.0, mode="nearest")
        levels = [output(features) for output, features in zip(self.outputs, sums, strict=True)]
        for index, convolution in enumerate(self.extra):
            levels.append(convolution(levels[-1].relu() if index else levels[-1]))
        return levels


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 32 groups (arXiv:1803.08494); of fewer where they would not divide the channels, or have less than
    four each: on the one cell of a small input's last level a group of one channel would have no variance.
    """
    return nn.GroupNorm(math.gcd(32, channels // 4 or 1, channels), channels)


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, group_norm(out_channels))
