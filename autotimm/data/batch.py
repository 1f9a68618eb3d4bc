"""What the loaders hand to a model: uint8 pixels at the model's size, as the exported graph takes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotimm.regions import MaskCrops
from autotimm.runtime.preprocess import Placement


class ClassificationBatch(NamedTuple):
    """A batch of labelled images."""

    images: Tensor
    """uint8 RGB ``[N, H, W, 3]``."""
    labels: Tensor
    """int64 ``[N]``; for multi-label data float32 ``[N, C]`` of 0 and 1."""
    paths: tuple[str, ...] = ()
    """Per image: the file, for messages."""


class GroundTruth(NamedTuple):
    """The annotated objects of one image, in source-image pixels, as the metrics compare them."""

    boxes: Tensor
    """float32 ``[n, 4]`` xyxy."""
    labels: Tensor
    """int64 ``[n]``."""
    crowd: Tensor
    """bool ``[n]``: COCO's ``iscrowd``; such boxes are never targets of training."""
    area: Tensor
    """float32 ``[n]``: COCO's ``area``, by which objects are called small, medium or large."""


class DetectionBatch(NamedTuple):
    """A batch of images with objects."""

    images: Tensor
    """uint8 RGB ``[N, H, W, 3]``."""
    boxes: list[Tensor]
    """Per image float32 ``[n, 4]``: xyxy in network-input pixels; the targets of training."""
    labels: list[Tensor]
    """Per image int64 ``[n]``."""
    placements: list[Placement]
    """Per image: how it lies in the network input. Empty where augmentation composed several images into one."""
    truths: list[GroundTruth]
    """Per image, for evaluation. Empty in training."""
    paths: tuple[str, ...] = ()
    """Per image: the file, for messages."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DetectionBatch:
        """On another device, but for the truths: they are compared on the host. Lightning calls this."""
        return self._replace(
            images=self.images.to(device, non_blocking=non_blocking),
            boxes=[boxes.to(device, non_blocking=non_blocking) for boxes in self.boxes],
            labels=[labels.to(device, non_blocking=non_blocking) for labels in self.labels],
        )


class InstanceTruth(NamedTuple):
    """The annotated objects of one image with their masks, in source-image pixels: a :class:`GroundTruth` and more."""

    boxes: Tensor
    """float32 ``[n, 4]`` xyxy."""
    labels: Tensor
    """int64 ``[n]``."""
    crowd: Tensor
    """bool ``[n]``: COCO's ``iscrowd``; such objects are never targets of training."""
    area: Tensor
    """float32 ``[n]``: COCO's ``area``, by which objects are called small, medium or large."""
    masks: tuple[dict[str, Any], ...]
    """``n`` masks as COCO's compressed RLE: ``{"size": [height, width], "counts": text}``."""


class InstanceBatch(NamedTuple):
    """A batch of images with objects and their masks: a :class:`DetectionBatch` and more."""

    images: Tensor
    """uint8 RGB ``[N, H, W, 3]``."""
    boxes: list[Tensor]
    """Per image float32 ``[n, 4]``: xyxy in network-input pixels; the targets of training."""
    labels: list[Tensor]
    """Per image int64 ``[n]``."""
    masks: list[MaskCrops]
    """Per image: the masks of the same objects, in network-input pixels. Empty outside training."""
    placements: list[Placement]
    """Per image: how it lies in the network input. Empty in training."""
    truths: list[InstanceTruth]
    """Per image, for evaluation. Empty in training."""
    paths: tuple[str, ...] = ()
    """Per image: the file, for messages."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InstanceBatch:
        """On another device, but for the truths: they are compared on the host. Lightning calls this."""
        return self._replace(
            images=self.images.to(device, non_blocking=non_blocking),
            boxes=[boxes.to(device, non_blocking=non_blocking) for boxes in self.boxes],
            labels=[labels.to(device, non_blocking=non_blocking) for labels in self.labels],
            masks=[masks.to(device, non_blocking=non_blocking) for masks in self.masks],
        )


class SegmentationBatch(NamedTuple):
    """A batch of images with a class for every pixel."""

    images: Tensor
    """uint8 RGB ``[N, H, W, 3]``."""
    masks: Tensor
    """uint8, or int32 where ids do not fit it, ``[N, H, W]``: classes of the pixels of ``images``, and the ignore index
    on what is unlabelled or padding."""
    placements: list[Placement]
    """Per image: how it lies in the network input."""
    truths: list[NDArray[np.integer]]
    """Per image ``[h, w]`` at source size, for evaluation. Empty in training."""
    paths: tuple[str, ...] = ()
    """Per image: the file, for messages."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SegmentationBatch:
        """On another device, but for the truths: they are compared on the host. Lightning calls this."""
        return self._replace(
            images=self.images.to(device, non_blocking=non_blocking),
            masks=self.masks.to(device, non_blocking=non_blocking),
        )
