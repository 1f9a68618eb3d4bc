"""The head of FCOS: classes on one branch, boxes and centerness on the other, the same weights on every level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotimm.dense import DenseOutputs
from autotimm.models.pyramid.fpn import group_norm

_PRIOR = 0.01
"""Probability that an untrained head gives to every class: the focal loss starts near its background level."""
_FIRST_DISTANCE = 4.0
"""In strides, of an untrained head: the middle of what a level learns. From 0, half of the regression would begin where
the derivative of the rectifier is 0."""


class FCOSHead(nn.Module):
    """Shared towers with group norm; each level has its own factor on the regression.

    Args:
        channels: of every level, and of the towers.
        num_classes: classes to tell apart.
        num_convs: convolutions of a tower.
        num_levels: levels of the pyramid.
    """

    def __init__(self, channels: int, num_classes: int, num_convs: int, num_levels: int) -> None:
        super().__init__()
        self.cls_tower = _tower(channels, num_convs)
        self.reg_tower = _tower(channels, num_convs)
        self.cls_pred = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.reg_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness_pred = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_pred.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        nn.init.constant_(self.reg_pred.bias, _FIRST_DISTANCE)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> DenseOutputs:
        """Predict at every cell of every level.

        Args:
            features: per level ``[N, channels, H / stride, W / stride]``, finest first.

        Returns:
            Distances to the four sides in strides (not rectified yet: ``decode_fcos`` does it), centerness, classes.
        """
        boxes, centerness, classes = [], [], []
        for level, feature in enumerate(features):
            regression = self.reg_tower(feature)
            boxes.append((self.scales[level] * self.reg_pred(regression)).flatten(2))
            centerness.append(self.centerness_pred(regression).flatten(2))
            classes.append(self.cls_pred(self.cls_tower(feature)).flatten(2))
        return DenseOutputs(torch.cat(boxes, dim=2), torch.cat(centerness, dim=2), torch.cat(classes, dim=2))


def _tower(channels: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), group_norm(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
