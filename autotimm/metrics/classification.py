"""Accuracy of one class an image, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.metrics.config import MetricConfig
from autotimm.metrics.configured import ConfiguredMetrics
from autotimm.metrics.gathering import GatheredRows
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Classification, Result

_OWN = ("accuracy", "macro_accuracy", "top5_accuracy")


class ClassificationMetric:
    """Top-1, top-5 and class-averaged accuracy and the confusion matrix, collected batch by batch.

    Where several processes share the images, each updates its own object, and all of them get the figures of the whole.

    Args:
        num_classes: top-5 accuracy is only told where there are more than five.
        class_names: for figures that are given class by class.
        extra: further metrics, which get probabilities float32 ``[N, C]`` and labels int64 ``[N]``.

    Raises:
        ConfigError: one of ``extra`` cannot be made.
    """

    def __init__(
        self, num_classes: int, *, class_names: Sequence[str] = (), extra: Sequence[MetricConfig] = ()
    ) -> None:
        self.num_classes = num_classes
        # a row is 24 bytes an image; the matrix, which has C * C entries, is only made when it is asked for
        self._rows = GatheredRows(
            outcomes=torch.empty(0, 3, dtype=torch.int64), probabilities=torch.empty(0, num_classes)
        )
        known = {"task": "multiclass", "num_classes": num_classes}
        self._extra = ConfiguredMetrics(
            extra, class_names or [str(index) for index in range(num_classes)], known, taken=_OWN
        )

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""
        self._rows.to(device)
        self._extra.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        self._rows.reset()
        self._extra.reset()

    def update(self, results: Sequence[Result], truths: Sequence[int]) -> None:
        """Add results and the class index of each image."""
        probabilities = stacked_probabilities(results, self.num_classes)
        labels = np.asarray(truths, dtype=np.int64).reshape(-1)
        if len(labels) != len(probabilities):
            raise ValueError(f"{len(probabilities)} results, but {len(labels)} truths")
        if not len(labels):
            return
        # of equal probabilities the first is the best: as in results, and no order of them all is needed
        of_truth = np.take_along_axis(probabilities, labels[:, None], axis=1)
        is_before = np.arange(self.num_classes) < labels[:, None]
        better = (probabilities > of_truth) | ((probabilities == of_truth) & is_before)
        in_five = better.sum(axis=1) < 5
        outcomes = torch.from_numpy(np.stack([labels, probabilities.argmax(axis=1), in_five], axis=1))
        seen = torch.from_numpy(probabilities)
        self._rows.update(outcomes=outcomes, probabilities=seen if self._extra.need_everything else seen[:0])
        self._extra.update(seen, torch.from_numpy(labels))

    def compute(self) -> dict[str, float]:
        """``accuracy``, ``macro_accuracy`` (the mean over the classes seen), ``top5_accuracy``; all 0..1.

        Raises:
            ConfigError: a further metric gives something that is no figure.
            DataError: nothing has been seen.
        """
        rows = self._rows.gather()
        truths, predictions, in_five = rows["outcomes"].numpy().T
        check_seen(len(truths))
        right = truths == predictions
        seen = np.bincount(truths, minlength=self.num_classes)
        right_of_class = np.bincount(truths[right], minlength=self.num_classes)
        present = seen > 0
        values = {
            "accuracy": float(right.mean()),
            "macro_accuracy": float(np.mean(right_of_class[present] / seen[present])),
        }
        if self.num_classes > 5:
            values["top5_accuracy"] = float(in_five.mean())
        values.update(self._extra.compute(lambda: (rows["probabilities"], rows["outcomes"][:, 0])))
        return values

    def confusion(self) -> NDArray[np.int64]:
        """How many images of each class (row) were taken for which (column): ``[C, C]``.

        Raises:
            DataError: nothing has been seen.
        """
        truths, predictions, _ = self._rows.gather()["outcomes"].numpy().T
        check_seen(len(truths))
        matrix = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        np.add.at(matrix, (truths, predictions), 1)
        return matrix


def check_seen(images: int) -> None:
    """Refuse to measure nothing.

    Raises:
        DataError: no images have been seen.
    """
    if images == 0:
        raise DataError("there is no accuracy of no images: the evaluation set is empty")


def stacked_probabilities(results: Sequence[Result], num_classes: int) -> NDArray[np.float32]:
    """The probabilities of some results: float32 ``[N, C]``."""
    for result in results:
        if not isinstance(result, Classification):
            raise TypeError(f"the accuracy of {type(result).__name__} is not defined")
    rows = [result.probabilities for result in results if isinstance(result, Classification)]
    return np.array(rows, dtype=np.float32).reshape(len(rows), num_classes)
