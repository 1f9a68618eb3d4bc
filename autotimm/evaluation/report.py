"""What an evaluation has found: the figures, those of each class, and whatever a task has beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotimm.evaluation.per_class import ClassRow, classification_rows, detection_rows, instance_rows, pixel_rows
from autotimm.evaluation.precision_recall import PrecisionRecall
from autotimm.metrics import (
    ClassificationMetric,
    DetectionMetric,
    InstanceMetric,
    MultiLabelMetric,
    SegmentationMetric,
    TaskMetric,
)
from autotimm.runtime.errors import ConfigError

_CONFUSING = ClassificationMetric | MultiLabelMetric | SegmentationMetric
"""Metrics that know which classes were taken for which."""


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of one evaluation."""

    metrics: dict[str, float]
    """Figures by name, as :func:`evaluate` gives them."""
    class_names: tuple[str, ...]
    """Of the model."""
    images: int
    """How many were evaluated."""
    metric: TaskMetric = field(repr=False)
    """The object that has seen them."""
    bad_images: tuple[str, ...] = ()
    """What is wrong with those that were passed over."""

    @property
    def has_confusion(self) -> bool:
        """Whether there is a :meth:`confusion`."""
        return isinstance(self.metric, _CONFUSING)

    def confusion(self) -> NDArray[np.int64]:
        """How many images, or pixels, of each class (row) were taken for which (column): ``[C, C]``.

        For several labels an image ``[C, 2, 2]``: for each label how many images do not have it or have it (row) and
        were told so (column).

        Raises:
            ConfigError: the model finds objects.
        """
        if not isinstance(self.metric, _CONFUSING):
            raise ConfigError("there is a confusion matrix of classes of images or pixels; this model finds objects")
        return self.metric.confusion()

    @property
    def has_per_class(self) -> bool:
        """Whether there is :meth:`per_class`."""
        return self.has_confusion or isinstance(self.metric, DetectionMetric | InstanceMetric)

    def per_class(self) -> list[ClassRow]:
        """Figures of each class of the model, in its order, under ``class`` its name; NaN where one is not defined.

        Of a detector: ``objects`` (annotated boxes, without crowds) and the ``images`` that have some; ``ap``,
        ``ap_50``, ``ap_75``, ``ar_100`` as pycocotools gives them; and at IoU .5 the highest F1, ``best_f1``, with the
        ``threshold`` of the score from which on it is reached, and ``precision`` and ``recall`` there.

        Of a classifier: the ``images`` of the class, ``precision``, ``recall``, ``f1``. Of semantic segmentation: the
        ``pixels`` of the class, ``iou``, ``precision``, ``recall``. Of instance segmentation: ``mask_ap``.

        Raises:
            ConfigError: the task has no figures of classes.
        """
        if isinstance(self.metric, DetectionMetric):
            return detection_rows(self.metric.evaluation(), self.class_names)
        if isinstance(self.metric, InstanceMetric):
            return instance_rows(self.metric.compute_per_class(), self.class_names)
        if not self.has_confusion:
            raise ConfigError("this model's task has no figures of classes")
        rows = pixel_rows if isinstance(self.metric, SegmentationMetric) else classification_rows
        return rows(self.confusion(), self.class_names)

    def precision_recall(self) -> PrecisionRecall:
        """The curves of a detector; ``report.precision_recall().save("curves.png")`` draws them.

        Raises:
            ConfigError: the model is no detector.
            DataError: no object is annotated.
        """
        if not isinstance(self.metric, DetectionMetric):
            raise ConfigError("precision over recall is of detectors only, and this model is none")
        return PrecisionRecall.of(self.metric.evaluation(), self.class_names)

    def confusion_table(self) -> list[list[str | int]]:
        """:meth:`confusion` with headings, the first row and column: truths downwards, predictions across.

        For several labels an image there is a row for each label with its four counts.

        Raises:
            ConfigError: the model is no classifier.
        """
        matrix = self.confusion()
        if matrix.ndim == 2:
            headings: list[str | int] = ["truth / prediction", *self.class_names]
            rows = matrix.tolist()
        else:
            headings = ["label", "true_negative", "false_positive", "false_negative", "true_positive"]
            rows = matrix.reshape(len(matrix), 4).tolist()
        return [headings, *([name, *row] for name, row in zip(self.class_names, rows, strict=True))]
