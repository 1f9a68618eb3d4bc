"""The loss of YOLOX: SimOTA, then IoU, objectness, class and (late in training) L1 terms over the foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from autotimm.dense import DenseOutputs, decode_yolox
from autotimm.losses.labels import check_labels
from autotimm.losses.simota import assign
from autotimm.losses.terms import TermFunction, check_terms, term


class _Foreground(NamedTuple):
    """The F foreground points of a batch and what they should predict."""

    images: Tensor
    """int64 ``[F]``: index of the image in the batch."""
    points: Tensor
    """int64 ``[F]``: index of the anchor point."""
    boxes: Tensor
    """float32 ``[4, F]`` xyxy."""
    labels: Tensor
    """int64 ``[F]``."""
    iou: Tensor
    """float32 ``[F]``: IoU of the prediction with the target, before the step."""


class YOLOXLoss:
    """The official loss, every term summed over the batch and divided by its number of foreground points.

    Args:
        num_classes: classes of the network.
        regression_weight: weight of the IoU term.
        class_weight: of the class term, which the official recipe has not.
        objectness_weight: of the objectness term, likewise.
        loss_fns: functions of your own in place of a term, by its name: ``classification`` takes the logits of the
            foreground and its targets, the IoU at the true class, both ``[F, C]``; ``box`` the predicted and the true
            boxes ``[F, 4]`` xyxy in network-input pixels; ``objectness`` logits and targets ``[N, 1, A]``. Each gives
            the sum.

    Raises:
        ConfigError: no such term.
    """

    TERMS = ("classification", "box", "objectness")

    def __init__(
        self,
        num_classes: int,
        regression_weight: float = 5.0,
        *,
        class_weight: float = 1.0,
        objectness_weight: float = 1.0,
        loss_fns: Mapping[str, TermFunction] | None = None,
    ) -> None:
        self.loss_fns = check_terms(loss_fns or {}, self.TERMS)
        self.num_classes = num_classes
        self.regression_weight = regression_weight
        self.class_weight, self.objectness_weight = class_weight, objectness_weight

    def __call__(
        self,
        outputs: DenseOutputs,
        points: Tensor,
        strides: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        use_l1: bool,
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch, in float32 whatever the precision of the network.

        Args:
            outputs: raw predictions of N images.
            points: cell centres in pixels ``[2, A]``.
            strides: ``[A]``.
            boxes: per image ``[n, 4]`` xyxy in network-input pixels, n may be 0.
            labels: per image int64 ``[n]``.
            use_l1: whether to add the L1 distance of the raw regression, as in the last epochs of the recipe.

        Returns:
            Scalars: ``loss``, the sum of ``iou_loss``, ``objectness_loss``, ``class_loss`` (all weighted) and
            ``l1_loss`` (0 without L1); and ``num_foreground``, the number of foreground points in the batch.

        Raises:
            ConfigError: a label is not one of the network's classes.
        """
        with torch.autocast(points.device.type, enabled=False):
            outputs = DenseOutputs(*(part.float() for part in outputs))
            foreground = self._assign(outputs, points, strides, boxes, labels)
            return self._terms(outputs, points, strides, foreground, use_l1)

    @torch.no_grad()
    def _assign(
        self, outputs: DenseOutputs, points: Tensor, strides: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> _Foreground:
        decoded = decode_yolox(outputs.boxes, points, strides)
        found = []
        for image, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
            if len(image_labels) == 0:
                continue
            check_labels(image_labels, self.num_classes)
            match = assign(
                decoded[image],
                outputs.objectness[image],
                outputs.classes[image],
                points,
                strides,
                boxes=image_boxes,
                labels=image_labels,
            )
            which = torch.full_like(match.points, image)
            target = image_boxes[match.boxes].float().T
            found.append(_Foreground(which, match.points, target, image_labels[match.boxes], match.iou))
        if not found:
            nothing = torch.zeros(0, dtype=torch.int64, device=points.device)
            return _Foreground(nothing, nothing, points.new_zeros(4, 0), nothing, points.new_zeros(0))
        return _Foreground(*(torch.cat(parts, dim=-1) for parts in zip(*found, strict=True)))

    def _terms(
        self, outputs: DenseOutputs, points: Tensor, strides: Tensor, foreground: _Foreground, use_l1: bool
    ) -> dict[str, Tensor]:
        images, at = foreground.images, foreground.points
        raw = outputs.boxes[images, :, at].T
        points, strides = points[:, at], strides[at]
        predicted = decode_yolox(raw, points, strides)
        iou_loss = term(self.loss_fns, "box", _squared_iou, predicted.T, foreground.boxes.T)

        objectness_target = torch.zeros_like(outputs.objectness)
        objectness_target[images, 0, at] = 1.0
        objectness_loss = term(self.loss_fns, "objectness", _cross_entropy, outputs.objectness, objectness_target)

        class_target = F.one_hot(foreground.labels, self.num_classes) * foreground.iou.unsqueeze(1)
        class_loss = term(self.loss_fns, "classification", _cross_entropy, outputs.classes[images, :, at], class_target)

        # Without foreground every term but objectness is an empty sum: 0, and still part of the graph.
        l1_target = _encode(foreground.boxes, points, strides) if use_l1 else raw.detach()
        l1_loss = F.l1_loss(raw, l1_target, reduction="sum")
        num_foreground = len(at)
        share = 1.0 / max(num_foreground, 1)
        terms = {
            "iou_loss": self.regression_weight * share * iou_loss,
            "objectness_loss": self.objectness_weight * share * objectness_loss,
            "class_loss": self.class_weight * share * class_loss,
            "l1_loss": share * l1_loss,
        }
        total = torch.stack(tuple(terms.values())).sum()
        return {"loss": total, **terms, "num_foreground": points.new_tensor(float(num_foreground))}


def _squared_iou(predicted: Tensor, target: Tensor) -> Tensor:
    return (1 - _iou(predicted.T, target.T) ** 2).sum()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def _iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU ``[F]`` of xyxy boxes ``[4, F]``, pair by pair; differentiable."""
    size = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0)
    overlap = size.prod(dim=0)
    area = (first[2:] - first[:2]).prod(dim=0) + (second[2:] - second[:2]).prod(dim=0)
    return overlap / (area - overlap + 1e-16)


def _encode(boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Raw regression ``[4, F]`` that decodes to xyxy boxes ``[4, F]``: the inverse of ``decode_yolox``."""
    center = (boxes[:2] + boxes[2:]) / 2
    size = boxes[2:] - boxes[:2]
    return torch.cat(((center - points) / strides + 0.5, (size / strides + 1e-8).log()))
