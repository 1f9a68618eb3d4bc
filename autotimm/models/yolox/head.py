"""The decoupled head of YOLOX: classes on one branch, boxes and objectness on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autotimm.dense import DenseOutputs
from autotimm.models.yolox.blocks import ConvBlock, conv3x3

_PRIOR = 0.01
"""Probability that an untrained head gives to every object and class: the loss starts near its background level."""


class YOLOXHead(nn.Module):
    """One head per pyramid level; levels share the layout and no weights.

    Args:
        in_channels: channels of each pyramid level, finest first.
        hidden: channels of both branches.
        num_classes: classes to tell apart.
        depthwise: whether the 3x3 convolutions are depthwise separable.
    """

    def __init__(self, in_channels: Sequence[int], hidden: int, num_classes: int, *, depthwise: bool) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(*(conv3x3(hidden, hidden, depthwise=depthwise) for _ in range(2)))

        def predict(channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, channels, 1) for _ in in_channels)

        self.stems = nn.ModuleList(ConvBlock(channels, hidden, 1) for channels in in_channels)
        self.cls_convs = nn.ModuleList(branch() for _ in in_channels)
        self.reg_convs = nn.ModuleList(branch() for _ in in_channels)
        self.cls_preds = predict(num_classes)
        self.reg_preds = predict(4)
        self.obj_preds = predict(1)
        for layer in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(layer.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, features: Sequence[Tensor]) -> DenseOutputs:
        """Predict at every cell of every level.

        Args:
            features: per level ``[N, in_channels, H / stride, W / stride]``, finest first.
        """
        boxes, objectness, classes = [], [], []
        for level, feature in enumerate(features):
            shared = self.stems[level](feature)
            regression = self.reg_convs[level](shared)
            boxes.append(self.reg_preds[level](regression).flatten(2))
            objectness.append(self.obj_preds[level](regression).flatten(2))
            classes.append(self.cls_preds[level](self.cls_convs[level](shared)).flatten(2))
        return DenseOutputs(torch.cat(boxes, dim=2), torch.cat(objectness, dim=2), torch.cat(classes, dim=2))
