"""CSPDarknet: from pixels to features at strides 8, 16 and 32."""

from __future__ import annotations

from torch import Tensor, nn

from autotimm.models.yolox.blocks import CSPLayer, Focus, SPPBottleneck, conv3x3
from autotimm.models.yolox.sizes import YOLOXSize


class CSPDarknet(nn.Module):
    """The backbone of YOLOX."""

    def __init__(self, size: YOLOXSize) -> None:
        super().__init__()
        channels, depth, depthwise = size.stem_channels, size.bottlenecks, size.depthwise

        def stage(factor: int, repeats: int) -> list[nn.Module]:
            halved = conv3x3(channels * factor // 2, channels * factor, stride=2, depthwise=depthwise)
            return [halved, CSPLayer(channels * factor, channels * factor, repeats, depthwise=depthwise)]

        self.stem = Focus(3, channels)
        self.dark2 = nn.Sequential(*stage(2, depth))
        self.dark3 = nn.Sequential(*stage(4, 3 * depth))
        self.dark4 = nn.Sequential(*stage(8, 3 * depth))
        deepest = channels * 16
        self.dark5 = nn.Sequential(
            conv3x3(deepest // 2, deepest, stride=2, depthwise=depthwise),
            SPPBottleneck(deepest, deepest),
            CSPLayer(deepest, deepest, depth, shortcut=False, depthwise=depthwise),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features.

        Args:
            x: float ``[N, 3, H, W]``.

        Returns:
            Features at strides 8, 16 and 32, with 4, 8 and 16 times the stem's channels.
        """
        stride8 = self.dark3(self.dark2(self.stem(x)))
        stride16 = self.dark4(stride8)
        return stride8, stride16, self.dark5(stride16)
