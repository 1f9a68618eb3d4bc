"""Backbone, feature pyramid and head as one network: pixels in, raw dense predictions out."""

from __future__ import annotations

from torch import Tensor, nn

from autotimm.dense import DenseOutputs
from autotimm.models.pyramid.backbone import PyramidBackbone
from autotimm.models.pyramid.fpn import FeaturePyramid


class PyramidDetector(nn.Module):
    """A dense detector on a timm backbone."""

    def __init__(self, backbone: PyramidBackbone, fpn: FeaturePyramid, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.fpn, self.head = backbone, fpn, head

    def forward(self, x: Tensor) -> DenseOutputs:
        """Predict.

        Args:
            x: normalised float32 ``[N, 3, H, W]``, H and W multiples of the backbone's coarsest stride.
        """
        outputs: DenseOutputs = self.head(self.fpn(self.backbone(x)))
        return outputs
