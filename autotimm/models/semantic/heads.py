"""Heads of semantic segmentation: DeepLabV3+ (arXiv:1802.02611) and FCN (arXiv:1411.4038)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.models.pyramid.fpn import group_norm

RATES = (6, 12, 18)
"""Of the atrous convolutions at an output stride of 16 (the paper's); doubled at 8, halved at 32."""
LOW_LEVEL_CHANNELS = 48
"""So few that the fine map does not outweigh the features that know what it shows (the paper, table 1)."""
DROPOUT = 0.1
"""Before the classifier: torchvision's, in both of its segmentation heads' last stage."""


class DeepLabHead(nn.Module):
    """Atrous spatial pyramid pooling on the last map, refined with the map at stride 4.

    Args:
        low_channels: of the map at stride 4.
        in_channels: of the last map.
        channels: of the pyramid and the decoder (256 in the paper).
        num_classes: C.
        output_stride: of the last map.
    """

    def __init__(
        self, low_channels: int, in_channels: int, channels: int, num_classes: int, output_stride: int
    ) -> None:
        super().__init__()
        self.aspp = AtrousPyramid(in_channels, channels, [rate * 16 // output_stride for rate in RATES])
        self.low_level = _convolution(low_channels, LOW_LEVEL_CHANNELS)
        self.decoder = nn.Sequential(
            *_separable(channels + LOW_LEVEL_CHANNELS, channels), *_separable(channels, channels), nn.Dropout(DROPOUT)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``[N, C, H / 4, W / 4]`` from the backbone's maps, finest first."""
        low = self.low_level(maps[0])
        context = F.interpolate(self.aspp(maps[-1]), low.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.classifier(self.decoder(torch.cat((context, low), dim=1)))
        return logits


class AtrousPyramid(nn.Module):
    """ASPP: a map seen through 1x1, through dilated 3x3 at several rates, and as a whole.

    Args:
        in_channels: of the map.
        channels: of each branch and of the output.
        rates: dilations of the separable 3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _convolution(in_channels, channels),
                *(nn.Sequential(*_separable(in_channels, channels, rate)) for rate in rates),
            ]
        )
        # batch norm would have one value an image here, and none to compare it with in a batch of one
        self.pooling = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), group_norm(channels), nn.ReLU(inplace=True)
        )
        self.projection = nn.Sequential(*_convolution(channels * (len(rates) + 2), channels), nn.Dropout(DROPOUT))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels, h, w]`` from ``[N, in_channels, h, w]``."""
        whole = self.pooling(x.mean(dim=(2, 3), keepdim=True))
        seen = [branch(x) for branch in self.branches]
        projected: Tensor = self.projection(torch.cat([*seen, whole.expand_as(seen[0])], dim=1))
        return projected


class FCNHead(nn.Module):
    """Torchvision's FCN head: 3x3 to a quarter of the channels, dropout, 1x1.

    Args:
        in_channels: of the map.
        num_classes: C.
        level: which of the backbone's maps it takes.
    """

    def __init__(self, in_channels: int, num_classes: int, level: int = -1) -> None:
        super().__init__()
        self.level = level
        inner = max(1, in_channels // 4)
        self.convolution = nn.Sequential(*_convolution(in_channels, inner, kernel=3), nn.Dropout(DROPOUT))
        self.classifier = nn.Conv2d(inner, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits ``[N, C, h, w]`` at the size of the map."""
        logits: Tensor = self.classifier(self.convolution(maps[self.level]))
        return logits


def _convolution(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _separable(in_channels: int, out_channels: int, rate: int = 1) -> list[nn.Module]:
    """Atrous separable convolution: 3x3 in each channel, then 1x1 over them (the paper, section 3.1)."""
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False)
    norm = nn.BatchNorm2d(in_channels)
    return [depthwise, norm, nn.ReLU(inplace=True), *_convolution(in_channels, out_channels)]
