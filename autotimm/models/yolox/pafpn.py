"""The feature pyramid of YOLOX: coarse features flow down to fine ones, then back up (a path aggregation network)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotimm.models.yolox.blocks import ConvBlock, CSPLayer, conv3x3
from autotimm.models.yolox.darknet import CSPDarknet
from autotimm.models.yolox.sizes import YOLOXSize


class PAFPN(nn.Module):
    """CSPDarknet and the pyramid over it. The backbone lies inside because the official keys say so."""

    def __init__(self, size: YOLOXSize) -> None:
        super().__init__()
        fine, middle, coarse = (size.stem_channels * factor for factor in (4, 8, 16))

        def stage(in_channels: int, out_channels: int) -> CSPLayer:
            return CSPLayer(in_channels, out_channels, size.bottlenecks, shortcut=False, depthwise=size.depthwise)

        self.backbone = CSPDarknet(size)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = ConvBlock(coarse, middle, 1)
        self.C3_p4 = stage(2 * middle, middle)
        self.reduce_conv1 = ConvBlock(middle, fine, 1)
        self.C3_p3 = stage(2 * fine, fine)
        self.bu_conv2 = conv3x3(fine, fine, stride=2, depthwise=size.depthwise)
        self.C3_n3 = stage(2 * fine, middle)
        self.bu_conv1 = conv3x3(middle, middle, stride=2, depthwise=size.depthwise)
        self.C3_n4 = stage(2 * middle, coarse)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute pyramid features.

        Args:
            x: float ``[N, 3, H, W]``, H and W multiples of 32.

        Returns:
            P3, P4 and P5 at strides 8, 16 and 32, with 4, 8 and 16 times the stem's channels.
        """
        stride8, stride16, stride32 = self.backbone(x)
        down16 = self.lateral_conv0(stride32)
        down8 = self.reduce_conv1(self.C3_p4(torch.cat((self.upsample(down16), stride16), dim=1)))
        p3 = self.C3_p3(torch.cat((self.upsample(down8), stride8), dim=1))
        p4 = self.C3_n3(torch.cat((self.bu_conv2(p3), down8), dim=1))
        p5 = self.C3_n4(torch.cat((self.bu_conv1(p4), down16), dim=1))
        return p3, p4, p5
