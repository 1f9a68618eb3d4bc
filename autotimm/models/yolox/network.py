"""The whole YOLOX network: pixels in, raw dense predictions out."""

from __future__ import annotations

from torch import Tensor, nn

from autotimm.dense import DenseOutputs
from autotimm.models.yolox.head import YOLOXHead
from autotimm.models.yolox.pafpn import PAFPN
from autotimm.models.yolox.sizes import YOLOXSize
from autotimm.runtime.errors import ConfigError


class YOLOXNetwork(nn.Module):
    """Official YOLOX of one size, with the official key names; freshly made, it has the official initialisation."""

    strides = (8, 16, 32)
    """Pixels between neighbouring cells of the levels P3, P4, P5."""

    def __init__(self, size: YOLOXSize, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}, but a detector needs at least one class")
        self.size = size
        self.num_classes = num_classes
        self.backbone = PAFPN(size)
        in_channels = [size.stem_channels * factor for factor in (4, 8, 16)]
        self.head = YOLOXHead(in_channels, size.stem_channels * 4, num_classes, depthwise=size.depthwise)

    def forward(self, x: Tensor) -> DenseOutputs:
        """Predict.

        Args:
            x: float32 ``[N, 3, H, W]``, BGR on the 0..255 scale, not normalised; H and W multiples of 32.

        Raises:
            ConfigError: H or W is not a multiple of 32.
        """
        height, width = x.shape[-2:]
        # While a graph is traced a free size is symbolic, and the check would become a part of the graph.
        static = isinstance(height, int) and isinstance(width, int)
        if static and (height % self.strides[-1] or width % self.strides[-1]):
            raise ConfigError(
                f"the network input is {height}x{width}, but YOLOX needs height and width in multiples of 32"
            )
        outputs: DenseOutputs = self.head(self.backbone(x))
        return outputs
