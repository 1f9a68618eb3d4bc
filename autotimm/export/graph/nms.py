"""Exact greedy class-aware NMS over a fixed number of ranked candidates, in two forms that give the same answer.

Both take candidates sorted by falling score and say which survive: a candidate is dropped when a surviving candidate of
the same class and higher rank overlaps it by more than the threshold (torchvision's ``batched_nms`` and the official
YOLOX; the comparison is strict).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

ROUNDS = 20
"""Rounds of the tensor form. A chain of n candidates, each overlapping only the next, needs n rounds; dense clusters of
1000 candidates needed at most 16 (tests/export/graph/test_nms.py counts them)."""
SCORE_FLOOR = 0.25
"""Between the score 0 of the candidates of other classes and the 0.5 of the last rank."""
MAX_PER_CLASS = 1 << 20


def keep_by_tensor_rounds(
    boxes: Tensor, valid: Tensor, labels: Tensor, iou_threshold: float, rounds: int = ROUNDS
) -> Tensor:
    """Plain tensor operations only: runs in every engine, and can be captured in a CUDA graph.

    With M[i, j] = "j ranks above i, has its class and overlaps it", greedy NMS is the fixed point of
    ``keep = valid and not any(M and keep)``. Each round fixes at least one more rank from the top, so the result is
    exact once the longest chain of suppressions is shorter than ``rounds``.

    Args:
        boxes: float32 ``[N, P, 4]`` xyxy, sorted by falling score.
        valid: bool ``[N, P]``: the candidates that take part.
        labels: integer ``[N, P]``.
        iou_threshold: boxes that overlap by more than this are the same object.
        rounds: how often the fixed-point step is applied.

    Returns:
        float32 ``[N, P]``: 1 where the candidate survives, else 0.
    """
    count = boxes.shape[1]
    ranks_above = torch.ones(count, count, dtype=torch.bool, device=boxes.device).tril(diagonal=-1)
    same_class = labels.unsqueeze(2) == labels.unsqueeze(1)
    suppresses = (overlaps(boxes, iou_threshold) & same_class & ranks_above).to(boxes.dtype)
    candidates = valid.to(boxes.dtype).unsqueeze(2)
    keep = candidates
    for _ in range(rounds):
        keep = candidates * (torch.matmul(suppresses, keep) < 0.5).to(boxes.dtype)
    return keep.squeeze(2)


def overlaps(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Which pairs of boxes have an IoU above the threshold: bool ``[N, P, P]`` from xyxy ``[N, P, 4]``.

    Boxes without area overlap nothing, as in torchvision.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=2)
    area = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2.unsqueeze(2), x2.unsqueeze(1)) - torch.maximum(x1.unsqueeze(2), x1.unsqueeze(1))
    height = torch.minimum(y2.unsqueeze(2), y2.unsqueeze(1)) - torch.maximum(y1.unsqueeze(2), y1.unsqueeze(1))
    intersection = width.clamp(min=0) * height.clamp(min=0)
    union = area.unsqueeze(2) + area.unsqueeze(1) - intersection
    return intersection / union.clamp(min=torch.finfo(boxes.dtype).tiny) > iou_threshold


def keep_by_onnx_operator(
    boxes: Tensor, valid: Tensor, labels: Tensor, iou_threshold: float, num_classes: int
) -> Tensor:
    """ONNX's ``NonMaxSuppression``: an exact greedy kernel in ONNX Runtime, which TensorRT-RTX does not build.

    Takes and returns what :func:`keep_by_tensor_rounds` does. Every class gets its own row of scores, in which the
    candidates of other classes lie below the operator's score threshold. The rank stands in for the score, so that ties
    are broken in the candidates' order.
    """
    ranking = torch.linspace(1.0, 0.5, labels.shape[1], device=boxes.device)
    classes = torch.arange(num_classes, device=labels.device).view(1, -1, 1)
    scores = ((labels.unsqueeze(1) == classes) & valid.unsqueeze(1)).to(boxes.dtype) * ranking
    kept: Tensor = torch.ops.autotimm.keep_by_nms(boxes, scores, iou_threshold)
    return kept


@torch.library.custom_op("autotimm::keep_by_nms", mutates_args=())
def keep_by_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """What the ONNX nodes of :func:`keep_by_nms_in_onnx` compute, for running the graph's module in PyTorch.

    Args:
        boxes: float32 ``[N, P, 4]`` xyxy.
        scores: float32 ``[N, C, P]``; below ``SCORE_FLOOR`` where the candidate is not of that class.
        iou_threshold: as in :func:`keep_by_tensor_rounds`.

    Returns:
        float32 ``[N, P]``: 1 where the candidate survives in any class, else 0.
    """
    kept = torch.zeros_like(boxes[..., 0])
    for image, class_index in (scores > SCORE_FLOOR).any(dim=2).nonzero().tolist():
        members = (scores[image, class_index] > SCORE_FLOOR).nonzero()[:, 0]
        survivors = nms(boxes[image, members], scores[image, class_index, members], iou_threshold)
        kept[image, members[survivors]] = 1.0
    return kept


@keep_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(boxes[..., 0])


def keep_by_nms_in_onnx(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """The ONNX translation of :func:`keep_by_nms`: NonMaxSuppression, then its list of indices as a fixed-size mask."""
    from onnxscript import opset18  # which writing TorchScript does without

    op: Any = opset18  # its stubs know no untyped values
    no_limit = op.Constant(value_ints=[MAX_PER_CLASS])
    floor = op.Constant(value_floats=[SCORE_FLOOR])
    selected = op.NonMaxSuppression(boxes, scores, no_limit, op.Constant(value_floats=[iou_threshold]), floor)
    image_and_candidate = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    none_kept = op.Mul(op.ReduceMax(scores, op.Constant(value_ints=[1]), keepdims=0), op.Constant(value_float=0.0))
    count = op.Shape(image_and_candidate, start=0, end=1)
    ones = op.Expand(op.Constant(value_float=1.0), count)
    return op.ScatterND(none_kept, image_and_candidate, ones)
