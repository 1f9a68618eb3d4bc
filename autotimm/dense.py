"""The vocabulary of dense one-stage detectors, and the one place where a box is decoded.

Networks, losses, evaluation and the exported graph all speak it, so it lies below all of them. Tensors are channels
first; the last axis runs over the anchor points: levels finest first, each level row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DenseOutputs(NamedTuple):
    """What a dense detector predicts at each of its A anchor points."""

    boxes: Tensor
    """``[N, 4, A]`` raw regression, to be decoded by the scheme of the detector."""
    objectness: Tensor
    """``[N, 1, A]`` logits: is there an object at all (YOLOX), or how central does the point lie in it (FCOS)."""
    classes: Tensor
    """``[N, C, A]`` logits: which class, if there is one."""


def anchor_points(
    height: int, width: int, strides: Sequence[int], device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """The anchor points of a network input: the centres of the cells of every level.

    Args:
        height: of the network input in pixels. Where it is no multiple of a stride, that level has one more cell, as
            a padded convolution of stride 2 makes it.
        width: likewise.
        strides: pixels between neighbouring cells, one per level, finest first.
        device: where the result lives; torch's default where absent.

    Returns:
        ``(points, strides)``: float32 ``[2, A]``, x and y in network-input pixels, and float32 ``[A]``.
    """
    points, point_strides = [], []
    for stride in strides:
        x = (torch.arange(-(-width // stride), dtype=torch.float32, device=device) + 0.5) * stride
        y = (torch.arange(-(-height // stride), dtype=torch.float32, device=device) + 0.5) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid_x.flatten(), grid_y.flatten())))
        point_strides.append(torch.full((x.numel() * y.numel(),), float(stride), device=device))
    return torch.cat(points, dim=1), torch.cat(point_strides)


def decode_yolox(raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Decode YOLOX regression: an offset from the cell's top-left corner and the logarithm of a size, both in cells.

    Works point by point, so that candidates can be gathered first and decoded alone; the arguments broadcast.

    Args:
        raw: ``[N, 4, A]`` (or ``[4, A]``): x, y, log width, log height.
        points: cell centres in pixels, ``[2, A]`` or ``[N, 2, A]``.
        strides: ``[A]`` or ``[N, 1, A]``.

    Returns:
        Boxes xyxy in network-input pixels, of the shape of ``raw``; not clipped.
    """
    offset, log_size = raw.chunk(2, dim=-2)
    center = points + (offset - 0.5) * strides
    half = log_size.exp() * (strides * 0.5)
    return torch.cat((center - half, center + half), dim=-2)


def joint_scores(objectness: Tensor, classes: Tensor) -> Tensor:
    """Joint probability of an object and its class.

    Args:
        objectness: logits ``[N, 1, A]``, or any shape that broadcasts with ``classes``.
        classes: logits ``[N, C, A]``.

    Returns:
        ``[N, C, A]`` in 0..1.
    """
    return objectness.sigmoid() * classes.sigmoid()


def decode_fcos(raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Decode FCOS regression: the distances from the point to the left, top, right and bottom side, in strides.

    Works point by point, so that candidates can be gathered first and decoded alone; the arguments broadcast.

    Args:
        raw: ``[N, 4, A]`` (or ``[4, A]``): the distances; those below 0 count as 0.
        points: cell centres in pixels, ``[2, A]`` or ``[N, 2, A]``.
        strides: ``[A]`` or ``[N, 1, A]``.

    Returns:
        Boxes xyxy in network-input pixels, of the shape of ``raw``; not clipped.
    """
    near, far = (raw.relu() * strides).chunk(2, dim=-2)
    return torch.cat((points - near, points + far), dim=-2)


def centered_scores(centerness: Tensor, classes: Tensor) -> Tensor:
    """Geometric mean of class probability and centerness: the score of FCOS.

    The paper (arXiv:1904.01355) first multiplied the two; its authors' later code and torchvision take the root, which
    orders the boxes of a class in the same way and keeps the scores in the range of probabilities.

    Args:
        centerness: logits ``[N, 1, A]``, or any shape that broadcasts with ``classes``.
        classes: logits ``[N, C, A]``.

    Returns:
        ``[N, C, A]`` in 0..1.
    """
    return joint_scores(centerness, classes).sqrt()
