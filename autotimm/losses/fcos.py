"""The loss of FCOS (arXiv:1904.01355): which location learns which box, then focal, GIoU and centerness terms.

Equal to ``torchvision.models.detection.fcos`` on the same inputs (tests/losses/test_fcos.py), but for this:

- Anchor points are the centres of the cells, as in the paper; torchvision's are their corners.
- A largest distance that is exactly a bound of two levels belongs to the finer one; there, to neither.
- Of two boxes whose areas are nearly the same, the smaller wins; there, areas are compared in steps of 8 square pixels,
  since they are subtracted from 1e8 in float32.
- Labels count from 0, without a background class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from autotimm.dense import DenseOutputs, decode_fcos
from autotimm.losses.labels import check_labels
from autotimm.losses.terms import TermFunction, check_terms, term
from autotimm.runtime.errors import ConfigError

CENTER_RADIUS = 1.5
"""In strides: a point learns a box when it is nearer than this to the box's centre, in x and in y."""


def default_ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """From 4 to 8 strides on each level, the first from 0 and the last without end: 64, 128, 256, 512 in the paper."""
    bounds = [0.0, *(8.0 * stride for stride in strides[:-1]), math.inf]
    return list(pairwise(bounds))


def check_ranges(ranges: Sequence[Sequence[float]], strides: Sequence[int]) -> list[tuple[float, float]]:
    """Bounds as pairs of numbers.

    Raises:
        ConfigError: not one rising pair a level.
    """
    try:
        pairs = [(float(low), float(high)) for low, high in ranges]
    except (TypeError, ValueError):  # not pairs, or not of numbers
        pairs = []
    if len(pairs) != len(strides) or not all(0 <= low < high for low, high in pairs):
        raise ConfigError(
            f"regress_ranges is {list(ranges)}, but must be one (from, to) in pixels for each of the {len(strides)} "
            f"levels, such as {default_ranges(strides)}"
        )
    return pairs


@torch.no_grad()
def assign_by_location(
    points: Tensor, strides: Tensor, lower: Tensor, upper: Tensor, boxes: Tensor, radius: float = CENTER_RADIUS
) -> Tensor:
    """Which box each anchor point of one image learns.

    A point is a candidate for a box that it lies inside of, near whose centre it lies, and whose farthest side is at a
    distance that its level is for. Of several such boxes the smallest wins.

    Args:
        points: cell centres in pixels ``[2, A]``.
        strides: ``[A]``.
        lower: ``[A]``, in pixels; the farthest side must lie beyond.
        upper: ``[A]``, in pixels; the farthest side may lie as far.
        boxes: ground truth ``[n, 4]``, xyxy in network-input pixels.
        radius: of the centre, in strides.

    Returns:
        int64 ``[A]``: index of a box; -1 for background.
    """
    if len(boxes) == 0:
        return torch.full_like(strides, -1, dtype=torch.int64)
    distances = torch.cat((points.T[:, None] - boxes[:, :2], boxes[:, 2:] - points.T[:, None]), dim=2)  # [A, n, 4]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points.T[:, None] - centers).abs().amax(dim=2) < radius * strides[:, None]
    farthest = distances.amax(dim=2)
    in_range = (farthest > lower[:, None]) & (farthest <= upper[:, None])
    candidate = near & in_range & (distances.amin(dim=2) > 0)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    smallest, matched = torch.where(candidate, area, math.inf).min(dim=1)
    return torch.where(smallest < math.inf, matched, -1)


def centerness(distances: Tensor) -> Tensor:
    """How central a point lies in its box ``[F]``, 0..1, from its distances to the sides ``[4, F]``."""
    horizontal, vertical = distances[::2], distances[1::2]
    return (horizontal.amin(0) / horizontal.amax(0) * vertical.amin(0) / vertical.amax(0)).sqrt()


class FCOSLoss:
    """Focal loss of all points, GIoU and centerness of the foreground; each sum over the number of foreground points.

    That is the number in this process's batch: with several processes the gradients are a mean of such ratios.

    Args:
        num_classes: classes of the network.
        strides: of the levels, finest first.
        regress_ranges: for each level the distances of the farthest side that it learns, in pixels.
        focal_alpha: weight of the foreground in the focal loss.
        focal_gamma: how much less what is already certain counts.
        class_weight: of the focal term.
        box_weight: of the GIoU term.
        centerness_weight: of the centerness term.
        loss_fns: functions of your own in place of a term, by its name: ``classification`` takes logits and targets of
            0 and 1, both ``[N, C, A]``; ``box`` the predicted and the true boxes of the foreground, both ``[F, 4]``
            xyxy in network-input pixels; ``centerness`` logits and targets ``[F]``. Each gives the sum.

    Raises:
        ConfigError: no such term.
    """

    TERMS = ("classification", "box", "centerness")

    def __init__(
        self,
        num_classes: int,
        strides: Sequence[int],
        regress_ranges: Sequence[Sequence[float]],
        *,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        centerness_weight: float = 1.0,
        loss_fns: Mapping[str, TermFunction] | None = None,
    ) -> None:
        self.loss_fns = check_terms(loss_fns or {}, self.TERMS)
        self.num_classes = num_classes
        self.ranges = dict(zip(strides, regress_ranges, strict=True))
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.class_weight, self.box_weight, self.centerness_weight = class_weight, box_weight, centerness_weight

    def __call__(
        self, outputs: DenseOutputs, points: Tensor, strides: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch, in float32 whatever the precision of the network.

        Args:
            outputs: raw predictions of N images.
            points: cell centres in pixels ``[2, A]``.
            strides: ``[A]``.
            boxes: per image ``[n, 4]`` xyxy in network-input pixels, n may be 0.
            labels: per image int64 ``[n]``.

        Returns:
            Scalars: ``loss``, the sum of ``class_loss``, ``box_loss`` and ``centerness_loss`` (all weighted); and
            ``num_foreground``, the number of foreground points in the batch.

        Raises:
            ConfigError: a label is not one of the network's classes.
        """
        with torch.autocast(points.device.type, enabled=False):
            outputs = DenseOutputs(*(part.float() for part in outputs))
            matched = self.assign(points, strides, boxes)
            images, at = (matched >= 0).nonzero(as_tuple=True)
            targets, target_labels = _targets(matched, boxes, labels, self.num_classes)
            points, strides = points[:, at], strides[at]
            class_targets = torch.zeros_like(outputs.classes)
            class_targets[images, target_labels, at] = 1.0
            class_loss = term(self.loss_fns, "classification", self._focal, outputs.classes, class_targets)
            predicted = decode_fcos(outputs.boxes[images, :, at].T, points, strides)
            box_loss = term(self.loss_fns, "box", _giou, predicted.T, targets.T)
            distances = torch.cat((points - targets[:2], targets[2:] - points))
            centerness_loss = term(
                self.loss_fns, "centerness", _cross_entropy, outputs.objectness[images, 0, at], centerness(distances)
            )
            # Without foreground the last two are empty sums: 0, and still part of the graph.
            share = 1.0 / max(len(at), 1)
            terms = {
                "class_loss": self.class_weight * share * class_loss,
                "box_loss": self.box_weight * share * box_loss,
                "centerness_loss": self.centerness_weight * share * centerness_loss,
            }
            total = torch.stack(tuple(terms.values())).sum()
            return {"loss": total, **terms, "num_foreground": points.new_tensor(float(len(at)))}

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = sigmoid_focal_loss(logits, targets, self.focal_alpha, self.focal_gamma, reduction="sum")
        return loss

    def assign(self, points: Tensor, strides: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Which box each point of each image learns: int64 ``[N, A]``, -1 for background."""
        bounds = torch.empty_like(points)
        for stride, pair in self.ranges.items():
            bounds[:, strides == stride] = bounds.new_tensor(pair)[:, None]
        lower, upper = bounds
        return torch.stack([assign_by_location(points, strides, lower, upper, one.float()) for one in boxes])


def _giou(predicted: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = generalized_box_iou_loss(predicted, target, reduction="sum")
    return loss


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def _targets(
    matched: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Boxes float32 ``[4, F]`` and labels int64 ``[F]`` of the foreground, images first."""
    target_boxes, target_labels = [], []
    for image, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
        if len(image_labels):
            check_labels(image_labels, num_classes)
        chosen = matched[image][matched[image] >= 0]
        target_boxes.append(image_boxes[chosen].float().T)
        target_labels.append(image_labels[chosen])
    return torch.cat(target_boxes, dim=1), torch.cat(target_labels)
