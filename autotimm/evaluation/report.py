"""What an evaluation has found: the figures, and which classes were taken for which."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotimm.metrics import ClassificationMetric, DetectionMetric, MultiLabelMetric, SegmentationMetric, TaskMetric
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

    @property
    def has_confusion(self) -> bool:
        """Whether there is a :meth:`confusion`."""
        return isinstance(self.metric, _CONFUSING)

    def confusion(self) -> NDArray[np.int64]:
        """How many images, or pixels, of each class (row) were taken for which (column): ``[C, C]``.

        For several labels an image ``[C, 2, 2]``: for each label how many images do not have it or have it (row) and
        were told so (column).

        Raises:
            ConfigError: the model is a detector.
        """
        if not isinstance(self.metric, _CONFUSING):
            raise ConfigError(
                "there is a confusion matrix of classes of images or pixels, and this model is a detector"
            )
        return self.metric.confusion()

    def per_class(self) -> dict[str, float]:
        """The figure of each class by its name: IoU of pixels, or average precision of boxes; none for classifiers."""
        if not isinstance(self.metric, DetectionMetric | SegmentationMetric):
            return {}
        return {self.class_names[index]: value for index, value in self.metric.compute_per_class().items()}

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
