"""Accuracy, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Classification, Result


class ClassificationMetric:
    """Top-1, top-5 and class-averaged accuracy, collected batch by batch.

    Args:
        num_classes: top-5 accuracy is only told where there are more than five.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.reset()

    def to(self, device: torch.device | str) -> None:
        """Nothing to move: it counts on the host."""

    def reset(self) -> None:
        """Forget everything seen."""
        self._seen = np.zeros(self.num_classes, dtype=np.int64)
        self._right = np.zeros(self.num_classes, dtype=np.int64)
        self._right_in_five = 0

    def update(self, results: Sequence[Result], truths: Sequence[int]) -> None:
        """Add results and the class index of each image."""
        for result, truth in zip(results, truths, strict=True):
            if not isinstance(result, Classification):
                raise TypeError(f"the accuracy of {type(result).__name__} is not defined")
            best = np.argsort(-result.probabilities, kind="stable")[:5]
            self._seen[truth] += 1
            self._right[truth] += best[0] == truth
            self._right_in_five += int(truth in best)

    def compute(self) -> dict[str, float]:
        """``accuracy``, ``macro_accuracy`` (the mean over the classes seen), ``top5_accuracy``; all 0..1.

        Raises:
            DataError: nothing has been seen.
        """
        total = int(self._seen.sum())
        if total == 0:
            raise DataError("there is no accuracy of no images: the evaluation set is empty")
        present = self._seen > 0
        values = {
            "accuracy": float(self._right.sum() / total),
            "macro_accuracy": float(np.mean(self._right[present] / self._seen[present])),
        }
        if self.num_classes > 5:
            values["top5_accuracy"] = self._right_in_five / total
        return values
