"""A pyramid from the one map of a plain vision transformer (ViTDet, arXiv:2203.16527, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from autotimm.runtime.errors import ConfigError


class SimplePyramid(nn.Module):
    """Every level from the last map alone: transposed convolutions for finer levels, maxima for coarser ones.

    As in the paper, a level twice as fine has half the channels, and one four times as fine a quarter.

    Args:
        in_channels: of the map.
        stride: of the map: the side of the transformer's patches.
        strides: of the wanted levels, finest first.
        name: of the backbone, for the message.

    Raises:
        ConfigError: a level is not twice, four times (and so on) as fine or as coarse as the map.
    """

    def __init__(self, in_channels: int, stride: int, strides: Sequence[int], name: str) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        channels = []
        for wanted in strides:
            steps = math.log2(stride / wanted)
            if not steps.is_integer():
                raise ConfigError(
                    f"backbone {name} cannot be a pyramid: its one feature map has a stride of {stride} pixels (its "
                    f"patches), of which no halving or doubling gives {wanted}; take one with patches of 8, 16 or 32, "
                    "or give extra_kwargs={'patch_size': 16}, to which timm resamples the weights"
                )
            level, level_channels = _level(in_channels, int(steps))
            self.levels.append(level)
            channels.append(level_channels)
        self.channels = tuple(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map a level, from ``[N, in_channels, H, W]``."""
        return [level(x) for level in self.levels]


def _level(channels: int, doublings: int) -> tuple[nn.Module, int]:
    """A level that is finer by so many doublings (coarser where negative), and its channels."""
    if doublings <= 0:
        return nn.Sequential(*(nn.MaxPool2d(2) for _ in range(-doublings))), channels
    layers: list[nn.Module] = []
    for step in range(doublings):
        if step:
            layers += [LayerNorm2d(channels), nn.GELU()]
        finer = max(1, channels // 2)
        layers.append(nn.ConvTranspose2d(channels, finer, 2, stride=2))
        channels = finer
    return nn.Sequential(*layers), channels
