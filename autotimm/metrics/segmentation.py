"""Intersection over union and accuracy of pixels, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotimm.metrics.config import MetricConfig
from autotimm.metrics.configured import ConfiguredMetrics
from autotimm.metrics.gathering import GatheredSum
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.results import Result
from autotimm.runtime.segmentation_results import SemanticMask

_OWN = ("miou", "pixel_accuracy", "mean_accuracy")


class SegmentationMetric:
    """IoU and accuracy over all pixels of all images, at source size, from one confusion matrix.

    Pixels of the ignore index are not looked at. Where several processes share the images, each updates its own object,
    and all of them get the figures of the whole.

    Args:
        num_classes: of the model.
        ignore_index: of pixels that are not labelled.
        class_names: for figures that are given class by class.
        extra: further metrics, which get the classes of the labelled pixels of an image as they were found and as they
            are annotated, int64 ``[pixels]`` each.

    Raises:
        ConfigError: one of ``extra`` cannot be made, or the ignore index is that of a class.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        class_names: Sequence[str] = (),
        extra: Sequence[MetricConfig] = (),
    ) -> None:
        if 0 <= ignore_index < num_classes:
            raise ConfigError(
                f"ignore_index is {ignore_index}, which is one of the {num_classes} classes of the model: give the "
                "number that unlabelled pixels have (evaluate: --ignore-index)"
            )
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self._counts = GatheredSum((num_classes, num_classes))
        self._extra = ConfiguredMetrics(
            extra,
            class_names or [str(index) for index in range(num_classes)],
            {"task": "multiclass", "num_classes": num_classes},
            taken=_OWN,
        )

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""
        self._counts.to(device)
        self._extra.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        self._counts.reset()
        self._extra.reset()

    def update(self, results: Sequence[Result], truths: Sequence[NDArray[np.integer]]) -> None:
        """Add the masks of some images, and those annotated, both at source size.

        Raises:
            DataError: an annotated mask is of another size, or has classes that the model does not have.
        """
        if len(results) != len(truths):
            raise ValueError(f"{len(results)} results, but {len(truths)} truths")
        for result, truth in zip(results, truths, strict=True):
            if not isinstance(result, SemanticMask):
                raise TypeError(f"the IoU of {type(result).__name__} is not defined")
            found, annotated = self._labelled(result.mask, np.asarray(truth))
            pairs = annotated * self.num_classes + found
            counts = np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)
            self._counts.update(torch.from_numpy(counts))
            self._extra.update(torch.from_numpy(found), torch.from_numpy(annotated))

    def _labelled(
        self, found: NDArray[np.integer], annotated: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The classes of the labelled pixels, in both masks."""
        if found.shape != annotated.shape:
            raise DataError(f"a mask is {list(annotated.shape)}, but its image {list(found.shape)} (height, width)")
        labelled = annotated != self.ignore_index
        ours, theirs = found[labelled].astype(np.int64), annotated[labelled].astype(np.int64)
        if theirs.size and not 0 <= theirs.min() <= theirs.max() < self.num_classes:
            raise DataError(
                f"a mask has the classes {theirs.min()}..{theirs.max()}, but the model has {self.num_classes}, and "
                f"{self.ignore_index} is ignored"
            )
        return ours, theirs

    def compute(self) -> dict[str, float]:
        """``miou``, ``pixel_accuracy``, ``mean_accuracy``; all 0..1.

        The mean IoU is over the classes that are annotated or were found somewhere, the mean accuracy (the share of a
        class's pixels that were found) over those annotated.

        Raises:
            ConfigError: a further metric gives something that is no figure.
            DataError: no labelled pixel has been seen.
        """
        counts = self.confusion()
        right, annotated = np.diag(counts), counts.sum(axis=1)
        values = {
            "miou": float(np.mean(list(self.compute_per_class().values()))),
            "pixel_accuracy": float(right.sum() / counts.sum()),
            "mean_accuracy": float(np.mean(right[annotated > 0] / annotated[annotated > 0])),
        }
        values.update(self._extra.compute(_all_pixels))
        return values

    def compute_per_class(self) -> dict[int, float]:
        """IoU of each class index that is annotated or was found somewhere; the mean of them is ``miou``."""
        counts = self.confusion()
        right = np.diag(counts)
        union = counts.sum(axis=0) + counts.sum(axis=1) - right
        return {int(index): float(right[index] / union[index]) for index in np.flatnonzero(union)}

    def confusion(self) -> NDArray[np.int64]:
        """How many pixels of each class (row) were taken for which (column): ``[C, C]``.

        Raises:
            DataError: no labelled pixel has been seen.
        """
        counts: NDArray[np.int64] = self._counts.gather().numpy()
        if not counts.any():
            raise DataError("there is no IoU of no pixels: the evaluation set is empty, or nothing in it is labelled")
        return counts


def _all_pixels() -> tuple[Any, Tensor]:
    raise ConfigError(
        "a further metric keeps every pixel, which cannot be gathered over processes; take one that counts "
        "(JaccardIndex, F1Score, Accuracy), or measure it with autotimm evaluate"
    )
