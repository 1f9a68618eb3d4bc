"""SimOTA: which anchor points of one image learn which ground-truth box (YOLOX, arXiv:2107.08430)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CENTER_RADIUS = 1.5
"""In cells: a point is a candidate for a box when it is nearer than this to the box's centre, in x and in y."""
_TOP_CANDIDATES = 10
"""A box gets as many points as the IoUs of its best ten candidates add up to."""
_IOU_WEIGHT = 3.0
_OUTSIDE_COST = 1e6
"""Cost of a point that is a candidate, but of another box: larger than anything else."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The F foreground points of one image, in the order of the points."""

    points: Tensor
    """int64 ``[F]``: indices of anchor points."""
    boxes: Tensor
    """int64 ``[F]``: the ground-truth box that each of them learns."""
    iou: Tensor
    """float32 ``[F]``: IoU of the point's predicted box with it."""


@torch.no_grad()
def assign(
    predicted: Tensor,
    objectness: Tensor,
    classes: Tensor,
    points: Tensor,
    strides: Tensor,
    *,
    boxes: Tensor,
    labels: Tensor,
) -> Assignment:
    """Assign ground-truth boxes to anchor points by the cost of what the network predicts there.

    Args:
        predicted: decoded boxes ``[4, A]``, xyxy in network-input pixels.
        objectness: logits ``[1, A]``.
        classes: logits ``[C, A]``.
        points: cell centres in pixels ``[2, A]``.
        strides: ``[A]``.
        boxes: ground truth ``[n, 4]``, xyxy in network-input pixels.
        labels: int64 ``[n]``, in 0..C-1.

    Returns:
        The foreground. A box far outside the image, or beaten everywhere by its neighbours, gets no point.
    """
    near = _near_centers(points, strides, boxes)
    candidates = near.any(dim=0).nonzero().squeeze(1)
    if candidates.numel() == 0:
        return Assignment(candidates, candidates, predicted.new_zeros(0, dtype=torch.float32))
    # Low precision would decide ties at random, so the cost is float32 even where the network is not.
    with torch.autocast(points.device.type, enabled=False):
        iou = _pairwise_iou(boxes.float(), predicted[:, candidates].float())
        cost = _class_cost(objectness[:, candidates].float(), classes[:, candidates].float(), labels)
        cost += _IOU_WEIGHT * -(iou + 1e-8).log()
        cost += _OUTSIDE_COST * ~near[:, candidates]
    return _match(cost, iou, candidates)


def _near_centers(points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Where ``[n, A]`` the point lies within the centre radius of the box (an open square)."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = strides * _CENTER_RADIUS
    near_x = (points[0] - centers[:, :1]).abs() < reach
    near_y = (points[1] - centers[:, 1:]).abs() < reach
    return near_x & near_y


def _pairwise_iou(boxes: Tensor, predicted: Tensor) -> Tensor:
    """IoU ``[n, P]`` of xyxy boxes ``[n, 4]`` with predicted xyxy boxes ``[4, P]``."""
    left, top, right, bottom = (side.unsqueeze(1) for side in boxes.unbind(1))
    width = (torch.minimum(right, predicted[2]) - torch.maximum(left, predicted[0])).clamp(min=0)
    height = (torch.minimum(bottom, predicted[3]) - torch.maximum(top, predicted[1])).clamp(min=0)
    overlap = width * height
    area = (right - left) * (bottom - top)
    predicted_area = (predicted[2] - predicted[0]) * (predicted[3] - predicted[1])
    # The bound only matters where both boxes have no area.
    return overlap / (area + predicted_area - overlap).clamp(min=1e-16)


def _class_cost(objectness: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``[n, P]`` of sqrt(objectness * class probability) ``[C, P]`` with each box's one-hot label.

    All boxes share the background terms of a point and differ in one class only, so the sum over classes is taken once
    and corrected at that class: O(C P + n P) and not O(C P n).
    """
    probability = (objectness.sigmoid() * classes.sigmoid()).sqrt()
    # Bounded as in torch's binary_cross_entropy.
    background = (-probability).log1p().clamp(min=-100)
    foreground = probability.log().clamp(min=-100)
    return (background - foreground)[labels] - background.sum(dim=0)


def _match(cost: Tensor, iou: Tensor, candidates: Tensor) -> Assignment:
    """Give every box its cheapest candidates; ``cost`` and ``iou`` are ``[n, P]``, ``candidates`` ``[P]``."""
    top = min(_TOP_CANDIDATES, len(candidates))
    wanted = iou.topk(top, dim=1).values.sum(dim=1).int().clamp(min=1)
    cheapest = cost.topk(top, dim=1, largest=False).indices
    taken = torch.arange(top, device=cost.device) < wanted.unsqueeze(1)
    claims = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, cheapest, taken)

    claimants = claims.sum(dim=0)
    chosen = (claimants > 0).nonzero().squeeze(1)
    claims, claimants = claims[:, chosen], claimants[chosen]
    # A contested point goes to the box for which it is cheapest of all, even if that box had not claimed it.
    matched = torch.where(claimants > 1, cost[:, chosen].argmin(dim=0), claims.int().argmax(dim=0))
    return Assignment(candidates[chosen], matched, iou[matched, chosen])
