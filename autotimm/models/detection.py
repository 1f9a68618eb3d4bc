"""What one-stage detectors share: inference as the artifact does it, and COCO AP in validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from autotimm.dense import DenseOutputs, anchor_points, decode_yolox, joint_scores
from autotimm.metrics import Stage, TaskMetric, build_metric
from autotimm.models.task import TaskModel
from autotimm.models.trainable import Measured
from autotimm.runtime.assemble import assemble
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import Task
from autotimm.runtime.preprocess import Preprocess

if TYPE_CHECKING:
    from autotimm.data.batch import DetectionBatch

MAX_CANDIDATES = 3840
"""As many candidates as can enter NMS in an exported graph: TensorRT's largest TopK."""


class DetectionModel(TaskModel):
    """A network that gives :class:`DenseOutputs`, with thresholds, class-aware NMS and COCO AP around it."""

    task: ClassVar[Task] = "detection"
    monitor = "val/map"
    strides: tuple[int, ...]
    score_thresh: float
    nms_thresh: float
    max_detections_per_image: int
    class_agnostic_nms = False
    """Whether boxes of different classes suppress one another, so that an object has one label."""
    multi_label_candidates = False
    """Whether every class of a location whose score is high enough enters NMS, or its best class only."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Score and IoU threshold, and the number of detections kept."""
        return {
            "score": self.score_thresh,
            "iou": self.nms_thresh,
            "max_detections": self.max_detections_per_image,
        }

    def set_thresholds(self, thresholds: Mapping[str, float]) -> None:
        """Take over what :attr:`thresholds` gave, after a check.

        Raises:
            ConfigError: out of the range that an exported graph can have.
        """
        score, iou, limit = thresholds["score"], thresholds["iou"], thresholds["max_detections"]
        if not 0.0 <= score <= 1.0:
            raise ConfigError(f"score_thresh is {score}, but must be in 0..1")
        if not 0.0 < iou <= 1.0:
            raise ConfigError(f"nms_thresh is {iou}, but must be above 0 and at most 1")
        if limit != int(limit) or not 1 <= limit <= MAX_CANDIDATES:
            raise ConfigError(f"max_detections_per_image is {limit}, but must be a whole number in 1..{MAX_CANDIDATES}")
        self.score_thresh, self.nms_thresh, self.max_detections_per_image = score, iou, int(limit)

    @property
    def postprocessing(self) -> dict[str, str | bool]:
        """One label a location or several, and NMS within each class or over all of them."""
        return {
            "score": "objectness * class probability",
            "class_agnostic_nms": self.class_agnostic_nms,
            "multi_label": self.multi_label_candidates,
        }

    @property
    def size_divisor(self) -> int:
        """Height and width of the network input are multiples of this."""
        return self.strides[-1]

    def bind_data(self, *, preprocess: Preprocess, class_names: tuple[str, ...], validation_images: list[str]) -> None:
        """Take over what the data module knows, provided that the network can take its size.

        Raises:
            ConfigError: a size that it cannot take.
            DataError: the classes of the data are not the classes of the model.
        """
        self.check_size(preprocess.size)
        super().bind_data(preprocess=preprocess, class_names=class_names, validation_images=validation_images)

    def output_layout(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """``num_detections``, ``boxes``, ``scores``, ``labels``."""
        limit = self.max_detections_per_image
        return [
            ("num_detections", "int32", (1,)),
            ("boxes", "float32", (limit, 4)),
            ("scores", "float32", (limit,)),
            ("labels", "int32", (limit,)),
        ]

    def score(self, objectness: Tensor, class_logits: Tensor) -> Tensor:
        """The score of a location for one class, 0..1, from both logits; any shape."""
        return joint_scores(objectness, class_logits)

    def decode_boxes(self, raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Raw regression ``[N, 4, P]`` at some anchor points to xyxy ``[N, 4, P]`` in network-input pixels."""
        return decode_yolox(raw, points, strides)

    def decode(self, outputs: DenseOutputs, size: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Every location's best class, before thresholds and NMS.

        Args:
            outputs: of the network.
            size: height and width of the network's input; that of :attr:`preprocess` where absent.

        Returns:
            ``boxes`` float32 ``[N, A, 4]`` xyxy in network-input pixels, ``scores`` float32 ``[N, A]``,
            ``labels`` int64 ``[N, A]``.
        """
        height, width = size or self.preprocess.size
        points, strides = anchor_points(height, width, self.strides, outputs.boxes.device)
        logits, labels = outputs.classes.max(dim=1)
        scores = self.score(outputs.objectness[:, 0], logits)
        return self.decode_boxes(outputs.boxes, points, strides).transpose(1, 2), scores, labels

    def candidates(
        self, outputs: DenseOutputs, size: tuple[int, int] | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What enters NMS: from the score threshold on, the best class of each location; or all its classes.

        Args:
            outputs: of the network.
            size: height and width of the network's input; that of :attr:`preprocess` where absent.

        Returns:
            For each image ``boxes`` float32 ``[P, 4]`` xyxy in network-input pixels, ``scores`` float32 ``[P]``,
            ``labels`` int64 ``[P]``. With :attr:`multi_label_candidates` the best ``MAX_CANDIDATES`` at most, since a
            low threshold lets hundreds of thousands through.
        """
        boxes, scores, labels = self.decode(outputs, size)
        if not self.multi_label_candidates:
            above = [torch.nonzero(each >= self.score_thresh)[:, 0] for each in scores]
            return [(boxes[image, at], scores[image, at], labels[image, at]) for image, at in enumerate(above)]
        found = []
        for image, of_classes in enumerate(self.score(outputs.objectness, outputs.classes)):
            label, at = torch.nonzero(of_classes >= self.score_thresh, as_tuple=True)
            best, order = of_classes[label, at].topk(min(len(at), MAX_CANDIDATES))
            found.append((boxes[image, at[order]], best, label[order]))
        return found

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """The artifact's outputs, with torchvision's NMS in place of the graph's."""
        return self.detections(self.network(self.normalize(images)), (images.shape[1], images.shape[2]))

    def detections(self, dense: DenseOutputs, size: tuple[int, int]) -> dict[str, Tensor]:
        """Thresholds and NMS, on what the network has answered to an input of this height and width.

        Returns:
            ``num_detections``, ``boxes``, ``scores`` and ``labels`` of the artifact, on the host.
        """
        entering = self.candidates(dense, size)
        count, limit = len(entering), self.max_detections_per_image
        outputs = {
            "num_detections": torch.zeros(count, 1, dtype=torch.int32),
            "boxes": torch.zeros(count, limit, 4),
            "scores": torch.zeros(count, limit),
            "labels": torch.full((count, limit), -1, dtype=torch.int32),
        }
        for index, (boxes, scores, labels) in enumerate(entering):
            rivals = torch.zeros_like(labels) if self.class_agnostic_nms else labels
            best = batched_nms(boxes, scores, rivals, self.nms_thresh)[:limit]
            outputs["num_detections"][index] = len(best)
            outputs["boxes"][index, : len(best)] = boxes[best].cpu()
            outputs["scores"][index, : len(best)] = scores[best].cpu()
            outputs["labels"][index, : len(best)] = labels[best].int().cpu()
        return outputs

    def measure(self, batch: DetectionBatch, count: int) -> Measured:
        """The objects found in source pixels, and those annotated."""
        outputs = self.outputs_as_arrays(batch.images[:count])
        return Measured(assemble(self.task, outputs, batch.placements[:count], self.class_names), batch.truths[:count])

    def make_metric(self, stage: Stage) -> TaskMetric:
        """COCO average precision, and what was configured."""
        return build_metric(self.task, self.num_classes, class_names=self.class_names, extra=self.metrics, stage=stage)
