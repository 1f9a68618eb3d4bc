"""The detection graph: network, candidates, decoding, NMS and fixed-size outputs as one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.dense import DenseOutputs, anchor_points
from autotimm.export.graph.contract import ExportGraph
from autotimm.export.graph.nms import keep_by_onnx_operator, keep_by_tensor_rounds
from autotimm.models.detection import MAX_CANDIDATES, DetectionModel
from autotimm.runtime.errors import ConfigError

NmsForm = Literal["tensor", "operator"]


@dataclass(frozen=True)
class DetectionSettings:
    """The numbers and choices that are baked into a detection graph."""

    score_threshold: float
    iou_threshold: float
    max_detections: int
    candidates: int
    nms: NmsForm
    class_agnostic: bool = False
    multi_label: bool = False

    def __post_init__(self) -> None:
        if not self.max_detections <= self.candidates <= MAX_CANDIDATES:
            raise ConfigError(
                f"max_detections is {self.max_detections} and the candidates before NMS are {self.candidates}, but "
                f"they must be max_detections <= candidates <= {MAX_CANDIDATES} (TensorRT's largest TopK)"
            )


class Candidates(nn.Module):
    """The P best locations by score, decoded: only these cost anything from here on.

    With several labels a location they are the P best pairs of a location and a class. Those lie in the P best
    locations, so that a second, small TopK finds them.
    """

    points: Tensor
    strides: Tensor

    def __init__(self, model: DetectionModel, count: int, multi_label: bool = False) -> None:
        super().__init__()
        height, width = model.preprocess.size
        points, strides = anchor_points(height, width, model.strides)
        self.count, self.multi_label = count, multi_label
        self.score, self.decode_boxes = model.score, model.decode_boxes
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, outputs: DenseOutputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose and decode.

        Returns:
            Locations int64 ``[N, min(P, A)]``, or ``[N, min(P, C A)]`` with several labels a location; boxes float32
            ``[N, P, 4]`` xyxy in input pixels, scores float32 ``[N, P]``, labels int64 ``[N, P]``; best first.
        """
        best_class = outputs.classes.amax(dim=1)
        location_scores = self.score(outputs.objectness[:, 0], best_class)
        locations = location_scores.shape[1]
        scores, index = location_scores.topk(min(self.count, locations), dim=1)
        logits = _take(outputs.classes, index)
        if self.multi_label:
            scores, index, labels = self._best_pairs(_take(outputs.objectness, index), logits, index)
        else:
            labels = logits.argmax(dim=1)
        boxes = self.decode_boxes(
            _take(outputs.boxes, index), self.points[:, index].transpose(0, 1), self.strides[index].unsqueeze(1)
        )
        boxes = boxes.transpose(1, 2)
        missing = self.count - index.shape[1]
        if missing > 0:  # a small input has fewer locations than candidates; the outputs keep their size
            boxes, scores, labels = (
                F.pad(boxes, (0, 0, 0, missing)),
                F.pad(scores, (0, missing), value=-1.0),
                F.pad(labels, (0, missing)),
            )
        return index, boxes, scores, labels

    def _best_pairs(self, objectness: Tensor, classes: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, locations and labels of the best pairs, from the logits ``[N, 1, P]`` and ``[N, C, P]``."""
        locations = index.shape[1]
        pairs = self.score(objectness, classes).flatten(1)
        scores, chosen = pairs.topk(min(self.count, pairs.shape[1]), dim=1)
        labels = torch.div(chosen, locations, rounding_mode="trunc")
        return scores, index.gather(1, chosen - labels * locations), labels


class DetectionGraph(ExportGraph):
    """uint8 pixels in, final detections out; the candidates before the thresholds come along for verification."""

    output_names: tuple[str, ...] = ("num_detections", "boxes", "scores", "labels")
    internal_names = ("candidate_index", "candidate_boxes", "candidate_scores", "candidate_labels")

    def __init__(self, model: DetectionModel, settings: DetectionSettings) -> None:
        super().__init__()
        self.normalize = model.normalize
        self.network = model.network
        self.num_classes = model.num_classes
        self.settings = settings
        self.portable = settings.nms == "tensor"
        self.select = Candidates(model, settings.candidates, settings.multi_label)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of DESIGN's table, then the candidates."""
        return self.detections(self.network(self.normalize(images)))

    def detections(self, outputs: DenseOutputs) -> tuple[Tensor, ...]:
        """The same, from what the network has answered."""
        index, boxes, scores, labels = self.select(outputs)
        settings = self.settings
        valid = scores >= settings.score_threshold
        rivals, groups = (torch.zeros_like(labels), 1) if settings.class_agnostic else (labels, self.num_classes)
        if settings.nms == "tensor":
            keep = keep_by_tensor_rounds(boxes, valid, rivals, settings.iou_threshold)
        else:
            keep = keep_by_onnx_operator(boxes, valid, rivals, settings.iou_threshold, groups)
        return *pad_detections(boxes, scores, labels, keep, settings.max_detections), index, boxes, scores, labels


def pad_detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first K survivors in rank order; rows past them are zero, with label -1.

    Args:
        boxes: float32 ``[N, P, 4]``, sorted by falling score.
        scores: float32 ``[N, P]``.
        labels: int64 ``[N, P]``.
        keep: float32 ``[N, P]`` of 0 and 1.
        max_detections: K, at most P.

    Returns:
        int32 ``[N, 1]``, float32 ``[N, K, 4]``, float32 ``[N, K]``, int32 ``[N, K]``.
    """
    count = keep.shape[1]
    # TopK of a rank, positive for survivors only: unlike scores it has no ties, which engines break their own way.
    rank = keep * torch.arange(count, 0, -1, dtype=keep.dtype, device=keep.device)
    chosen, index = rank.topk(max_detections, dim=1)
    found = chosen > 0
    boxes = boxes.gather(1, index.unsqueeze(2).expand(-1, -1, 4)) * found.unsqueeze(2)
    scores = scores.gather(1, index) * found
    labels = torch.where(found, labels.gather(1, index), -1)
    return found.sum(dim=1, keepdim=True, dtype=torch.int32), boxes, scores, labels.to(torch.int32)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """``values[n, c, index[n, p]]``: ``[N, C, A]`` and ``[N, P]`` to ``[N, C, P]``."""
    return values.gather(2, index.unsqueeze(1).expand(-1, values.shape[1], -1))
