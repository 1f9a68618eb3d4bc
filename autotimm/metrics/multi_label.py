"""Precision and recall of any number of labels an image, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multilabel_average_precision

from autotimm.metrics.classification import check_seen, stacked_probabilities
from autotimm.metrics.config import MetricConfig
from autotimm.metrics.configured import ConfiguredMetrics
from autotimm.metrics.gathering import GatheredRows
from autotimm.runtime.results import Result

_OWN = ("map", "f1_macro", "f1_micro", "exact_match")


class MultiLabelMetric:
    """Average precision, and F1 and exact matches at a threshold, collected batch by batch.

    Where several processes share the images, each updates its own object, and all of them get the figures of the whole.

    Args:
        num_classes: labels an image may have.
        threshold: the probability from which a label is predicted.
        class_names: for figures that are given class by class.
        extra: further metrics, which get probabilities float32 ``[N, C]`` and 0/1 labels int64 ``[N, C]``.

    Raises:
        ConfigError: one of ``extra`` cannot be made.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: float = 0.5,
        class_names: Sequence[str] = (),
        extra: Sequence[MetricConfig] = (),
    ) -> None:
        self.num_classes = num_classes
        self.threshold = threshold
        self._rows = GatheredRows(
            probabilities=torch.empty(0, num_classes), labels=torch.empty(0, num_classes, dtype=torch.uint8)
        )
        known = {
            "task": "multilabel",
            "num_classes": num_classes,
            "num_labels": num_classes,
            # torchmetrics predicts what lies above its threshold; a label at ours is predicted too
            "threshold": max(0.0, float(np.nextafter(np.float32(threshold), np.float32(-1)))),
        }
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

    def update(self, results: Sequence[Result], truths: Sequence[NDArray[np.generic]]) -> None:
        """Add results and the labels of each image, 0/1 ``[C]``."""
        if len(results) != len(truths):
            raise ValueError(f"{len(results)} results, but {len(truths)} truths")
        if not len(results):
            return
        probabilities = torch.from_numpy(stacked_probabilities(results, self.num_classes))
        labels = torch.from_numpy(np.array([np.asarray(truth) for truth in truths]).astype(np.int64))
        if labels.shape != probabilities.shape:
            raise ValueError(f"the labels of an image are {list(labels.shape[1:])}, but must be [{self.num_classes}]")
        self._rows.update(probabilities=probabilities, labels=labels.to(torch.uint8))
        self._extra.update(probabilities, labels)

    def compute(self) -> dict[str, float]:
        """Figures of all images, 0..1.

        ``map`` is the mean over the labels that occur of the area under precision and recall. At the threshold,
        ``f1_macro`` is the mean of all labels' F1, 0 for one that is neither there nor predicted, ``f1_micro`` the F1
        of all decisions together, and ``exact_match`` the share of images whose labels are predicted without a mistake.

        Raises:
            ConfigError: a further metric gives something that is no figure.
            DataError: nothing has been seen.
        """
        rows = self._rows.gather()
        probabilities, labels = rows["probabilities"], rows["labels"].long()
        check_seen(len(labels))
        occurs = labels.any(dim=0)
        values = {
            "map": _mean_average_precision(probabilities[:, occurs], labels[:, occurs]),
            **self._at_threshold(probabilities.numpy(), labels.numpy().astype(bool)),
        }
        values.update(self._extra.compute(lambda: (probabilities, labels)))
        return values

    def confusion(self) -> NDArray[np.int64]:
        """For each label how many images have it not or have it (row) and were told so (column): ``[C, 2, 2]``.

        Raises:
            DataError: nothing has been seen.
        """
        rows = self._rows.gather()
        check_seen(len(rows["labels"]))
        truths, predictions = rows["labels"].numpy().astype(bool), self._predicted(rows["probabilities"].numpy())
        matrices = np.zeros((self.num_classes, 2, 2), dtype=np.int64)
        for row, there in enumerate((~truths, truths)):
            for column, told in enumerate((~predictions, predictions)):
                matrices[:, row, column] = (there & told).sum(axis=0)
        return matrices

    def _predicted(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        predicted: NDArray[np.bool_] = probabilities >= np.float32(self.threshold)
        return predicted

    def _at_threshold(self, probabilities: NDArray[np.float32], truths: NDArray[np.bool_]) -> dict[str, float]:
        predictions = self._predicted(probabilities)
        hits, wrong = (predictions & truths).sum(axis=0), (predictions != truths).sum(axis=0)
        # F1 is 2 TP / (2 TP + FP + FN); where nothing is there and nothing predicted, 0 / 1
        f1 = 2 * hits / np.maximum(2 * hits + wrong, 1)
        return {
            "f1_macro": float(f1.mean()),
            "f1_micro": float(2 * hits.sum() / max(2 * hits.sum() + wrong.sum(), 1)),
            "exact_match": float((predictions == truths).all(axis=1).mean()),
        }


def _mean_average_precision(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Over labels each of which occurs; 0 where there is none."""
    if labels.shape[1] == 0:
        return 0.0
    if labels.shape[1] == 1:  # torchmetrics wants two labels at least
        probabilities, labels = probabilities.repeat(1, 2), labels.repeat(1, 2)
    return float(multilabel_average_precision(probabilities, labels, labels.shape[1], validate_args=False))
