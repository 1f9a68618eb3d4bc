"""The one way to make the metric of a task: for training, for tests, for ``autotimm evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from autotimm.metrics.classification import ClassificationMetric
from autotimm.metrics.config import MetricConfig, Stage
from autotimm.metrics.detection import DetectionMetric
from autotimm.metrics.instances import InstanceMetric
from autotimm.metrics.multi_label import MultiLabelMetric
from autotimm.metrics.segmentation import SegmentationMetric
from autotimm.runtime.manifest import Task
from autotimm.runtime.results import Result


class TaskMetric(Protocol):
    """What every metric object here does: collect results batch by batch, then give figures by name."""

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""

    def reset(self) -> None:
        """Forget everything seen."""

    def update(self, results: Sequence[Result], truths: Sequence[Any]) -> None:
        """Add results and the truth of each: a class index, a 0/1 vector ``[C]``, a ``GroundTruth``, or a mask."""

    def compute(self) -> dict[str, float]:
        """Figures by name, over everything seen by all processes."""


def build_metric(
    task: Task,
    num_classes: int,
    *,
    class_names: Sequence[str] = (),
    multi_label: bool = False,
    threshold: float = 0.5,
    ignore_index: int = 255,
    extra: Sequence[MetricConfig] = (),
    stage: Stage = "val",
) -> TaskMetric:
    """The metric of a task.

    Args:
        task: what is measured.
        num_classes: of the model.
        class_names: for figures that are given class by class.
        multi_label: classification with any number of labels an image.
        threshold: multi-label: the probability from which a label is predicted.
        ignore_index: semantic segmentation: of pixels that are not labelled.
        extra: metrics beside the task's own.
        stage: those among them that are not for this stage are left out.

    Raises:
        ConfigError: a further metric that cannot be made.
    """
    further = [metric for metric in extra if stage in metric.stages]
    if task == "classification" and multi_label:
        return MultiLabelMetric(num_classes, threshold=threshold, class_names=class_names, extra=further)
    if task == "classification":
        return ClassificationMetric(num_classes, class_names=class_names, extra=further)
    if task == "detection":
        return DetectionMetric(num_classes, class_names=class_names, extra=further)
    if task == "instance_segmentation":
        return InstanceMetric(num_classes, class_names=class_names, extra=further)
    return SegmentationMetric(num_classes, ignore_index=ignore_index, class_names=class_names, extra=further)
