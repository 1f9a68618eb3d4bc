"""The building blocks of YOLOX. Attribute names are the official ones, since they become the keys of checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Module):
    """Convolution, batch norm, SiLU; padded so that stride 1 keeps the size. ``[N, in, H, W] -> [N, out, H', W']``."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        # Not torch's defaults: official YOLOX sets both on every batch norm.
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        activated: Tensor = self.act(self.bn(self.conv(x)))
        return activated


class SeparableConvBlock(nn.Module):
    """A depthwise and a pointwise :class:`ConvBlock` in the place of one dense convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.dconv = ConvBlock(in_channels, in_channels, kernel, stride, groups=in_channels)
        self.pconv = ConvBlock(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        mixed: Tensor = self.pconv(self.dconv(x))
        return mixed


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, *, depthwise: bool) -> nn.Module:
    """The 3x3 convolution of a stage or a head: dense, or depthwise separable in YOLOX-nano."""
    block = SeparableConvBlock if depthwise else ConvBlock
    return block(in_channels, out_channels, 3, stride)


class Focus(nn.Module):
    """Space to depth by two, then a 3x3 convolution. ``[N, in, H, W] -> [N, out, H / 2, W / 2]``.

    The weight is the official one, over the four phases of the pixels (top left, bottom left, top right, bottom right),
    but the phases are never stacked: a 3x3 convolution of them is a 6x6 convolution of the pixels with stride 2, whose
    weight holds the same numbers in another order. That is faster in torch and in ONNX Runtime, and gives the same sum.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv = ConvBlock(in_channels * 4, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        phases = self.conv.conv.weight.view(-1, 2, 2, self.in_channels, 3, 3)  # second and third: x and y of the phase
        pixels = phases.permute(0, 3, 4, 2, 5, 1).reshape(-1, self.in_channels, 6, 6)
        activated: Tensor = self.conv.act(self.conv.bn(F.conv2d(x, pixels, stride=2, padding=2)))
        return activated


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution, added to the input where ``shortcut``. ``[N, C, H, W] -> [N, C, H, W]``."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(channels, channels, 1)
        self.conv2 = conv3x3(channels, channels, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        residual: Tensor = self.conv2(self.conv1(x))
        return x + residual if self.shortcut else residual


class CSPLayer(nn.Module):
    """Cross stage partial stage: half the channels pass ``depth`` bottlenecks, the other half goes around them."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, *, shortcut: bool = True, depthwise: bool = False
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = ConvBlock(in_channels, hidden, 1)
        self.conv2 = ConvBlock(in_channels, hidden, 1)
        self.conv3 = ConvBlock(2 * hidden, out_channels, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage."""
        merged: Tensor = self.conv3(torch.cat((self.m(self.conv1(x)), self.conv2(x)), dim=1))
        return merged


class SPPBottleneck(nn.Module):
    """Spatial pyramid pooling: the features beside their maxima over 5x5, 9x9 and 13x13 windows."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvBlock(in_channels, hidden, 1)
        self.conv2 = ConvBlock(4 * hidden, out_channels, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        features: Tensor = self.conv1(x)
        # A 5x5 maximum of 5x5 maxima is the 9x9 maximum, and once more the 13x13 one: 75 comparisons and not 275.
        window5 = self.pool(features)
        window9 = self.pool(window5)
        pooled: Tensor = self.conv2(torch.cat((features, window5, window9, self.pool(window9)), dim=1))
        return pooled
