"""The mask head of Mask R-CNN (arXiv:1703.06870), and a detector's network with it."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from autotimm.dense import DenseOutputs
from autotimm.models.pyramid.backbone import PyramidBackbone
from autotimm.models.pyramid.fpn import FeaturePyramid, group_norm
from autotimm.models.pyramid.network import PyramidDetector

CONVOLUTIONS = 4
"""Before the deconvolution, as in the paper."""


class MaskHead(nn.Module):
    """Four convolutions, a deconvolution that doubles the side, and one mask for each class.

    Every convolution has a group norm, as in the pyramid and the box head: batches of regions are of changing size.

    Args:
        channels: of the pyramid, and of the head.
        num_classes: masks of each region.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(CONVOLUTIONS):
            layers += [
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                group_norm(channels),
                nn.ReLU(inplace=True),
            ]
        self.tower = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.mask_pred = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Masks of some regions.

        Args:
            features: ``[R, channels, p, p]``.

        Returns:
            Logits ``[R, C, 2p, 2p]``, a mask for each class.
        """
        masks: Tensor = self.mask_pred(self.relu(self.upsample(self.tower(features))))
        return masks


class MaskDetector(PyramidDetector):
    """Backbone, pyramid and box head; and a mask head, which is called on regions of the pyramid."""

    def __init__(self, backbone: PyramidBackbone, fpn: FeaturePyramid, head: nn.Module, mask_head: MaskHead) -> None:
        super().__init__(backbone, fpn, head)
        self.mask_head = mask_head

    @overload
    def forward(self, x: Tensor, *, with_levels: Literal[False] = False) -> DenseOutputs: ...
    @overload
    def forward(self, x: Tensor, *, with_levels: Literal[True]) -> tuple[DenseOutputs, list[Tensor]]: ...
    def forward(self, x: Tensor, *, with_levels: bool = False) -> DenseOutputs | tuple[DenseOutputs, list[Tensor]]:
        """Predict boxes.

        Args:
            x: normalised float32 ``[N, 3, H, W]``, H and W multiples of the backbone's coarsest stride.
            with_levels: give the levels of the pyramid as well, of which regions are taken.
        """
        levels = self.fpn(self.backbone(x))
        outputs: DenseOutputs = self.head(levels)
        return (outputs, levels) if with_levels else outputs
