"""What an evaluation has found: the figures, and for classification which classes were taken for which."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotimm.metrics import ClassificationMetric, MultiLabelMetric, TaskMetric
from autotimm.runtime.errors import ConfigError


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
        return isinstance(self.metric, ClassificationMetric | MultiLabelMetric)

    def confusion(self) -> NDArray[np.int64]:
        """How many images of each class (row) were taken for which (column): ``[C, C]``.

        For several labels an image ``[C, 2, 2]``: for each label how many images do not have it or have it (row) and
        were told so (column).

        Raises:
            ConfigError: the model is no classifier.
        """
        if not isinstance(self.metric, ClassificationMetric | MultiLabelMetric):
            raise ConfigError("there is a confusion matrix of classifiers only, and this model is none")
        return self.metric.confusion()

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
