"""Backbone and head as one network: pixels in, coarse logits out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from autotimm.models.pyramid.backbone import PyramidBackbone


class SemanticOutputs(NamedTuple):
    """What the network gives, before anything is made as large as its input."""

    logits: Tensor
    """``[N, C, h, w]``"""
    auxiliary: Tensor | None = None
    """``[N, C, h', w']`` of the auxiliary head; in training only, and where there is one."""


class SemanticNetwork(nn.Module):
    """A segmenting network on a timm backbone."""

    def __init__(self, backbone: PyramidBackbone, head: nn.Module, auxiliary_head: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.head, self.auxiliary_head = backbone, head, auxiliary_head

    def forward(self, x: Tensor) -> SemanticOutputs:
        """Predict.

        Args:
            x: normalised float32 ``[N, 3, H, W]``, H and W multiples of the backbone's coarsest stride.
        """
        maps = self.backbone(x)
        has_auxiliary = self.training and self.auxiliary_head is not None
        return SemanticOutputs(self.head(maps), self.auxiliary_head(maps) if has_auxiliary else None)  # type: ignore[misc]
