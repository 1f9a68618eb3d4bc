"""The regions that the mask head is trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

MIN_IOU = 0.5
"""A box with less in common with every object is none of the head's business (Mask R-CNN's positives)."""
JITTER = 0.15
"""How far the sides of an annotated box are moved, over its width or height, at most."""
CANDIDATES = 256
"""So many of the best-scored boxes of an image may become proposals."""


class Proposals(NamedTuple):
    """Regions of one image, each with the object that it shows."""

    boxes: Tensor
    """float32 ``[P, 4]`` xyxy in network-input pixels, inside the input."""
    objects: Tensor
    """int64 ``[P]``: index of an annotated object."""


@torch.no_grad()
def choose_proposals(
    predicted: Tensor, scores: Tensor, annotated: Tensor, size: tuple[int, int], limit: int
) -> Proposals:
    """Boxes that overlap an object, half of them at most the network's own, the others annotated ones, jittered.

    The network's own are what the head sees after training. In the beginning there are none worth anything, and objects
    that are not found yet are never among them: the annotated boxes, moved as an imperfect detector would, are there
    from the first step on, and every object has its turn.

    Args:
        predicted: float32 ``[A, 4]`` xyxy of all locations, in network-input pixels.
        scores: ``[A]`` of them.
        annotated: float32 ``[n, 4]``.
        size: height and width of the network input.
        limit: so many proposals at most.
    """
    if not len(annotated):
        return Proposals(annotated.reshape(0, 4), annotated.new_zeros(0, dtype=torch.int64))
    best = scores.topk(min(CANDIDATES, len(scores))).indices
    own, own_objects = _overlapping(clip_boxes_to_image(predicted[best].float(), size), annotated)
    chosen = torch.randperm(len(own), device=own.device)[: limit // 2]
    order = torch.randperm(len(annotated), device=own.device)
    turns = order.repeat(-(-limit // len(order)))[: min(limit - len(chosen), 2 * len(order))]
    sides = (annotated[:, 2:] - annotated[:, :2]).repeat(1, 2)[turns]
    moved = annotated[turns] + sides * (torch.rand_like(sides) * 2 - 1) * JITTER
    moved = clip_boxes_to_image(moved, size)
    near = _iou(moved, annotated[turns]) >= MIN_IOU
    return Proposals(
        torch.cat((own[chosen], moved[near])),
        torch.cat((own_objects[chosen], turns[near])),
    )


def _overlapping(boxes: Tensor, annotated: Tensor) -> tuple[Tensor, Tensor]:
    """The boxes that overlap an object enough, and which it is."""
    overlap, objects = box_iou(boxes, annotated).max(dim=1)
    positive = overlap >= MIN_IOU
    return boxes[positive], objects[positive]


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of each box with the one in the same row."""
    sides = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    shared = sides.prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(dim=1) for box in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)
