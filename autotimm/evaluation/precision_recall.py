"""Precision over recall of a detector, as pycocotools interpolates it, and writing it to files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.metrics.coco_evaluation import IOU_50, IOU_75, RECALL_THRESHOLDS, BestF1, CocoEvaluation
from autotimm.runtime.errors import BackendUnavailableError, ConfigError, DataError
from autotimm.runtime.files import replacing

IOUS = (0.5, 0.75)
ENDINGS = (".png", ".svg", ".csv")
"""Of the files that the curves can be written to."""


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """The curves of each class that is annotated, at IoU .5 and .75, for at most 100 detections of it an image."""

    class_names: tuple[str, ...]
    """``[K]``, in the order of the model's classes."""
    labels: NDArray[np.int64]
    """``[K]``: their indices among the model's classes."""
    recall: NDArray[np.float64]
    """``[101]``: 0, .01, ... 1."""
    precision: NDArray[np.float64]
    """``[2, K, 101]``: the highest at each recall or a higher one, at IoU .5 and .75; 0 where it is not reached. The
    mean of a curve is the class's AP at that IoU."""
    scores: NDArray[np.float64]
    """``[2, K, 101]``: of the detection at which each recall is reached; NaN where it is not."""
    best: tuple[BestF1, ...]
    """``[K]``: where F1 at IoU .5 is highest."""

    @classmethod
    def of(cls, evaluation: CocoEvaluation, class_names: tuple[str, ...]) -> PrecisionRecall:
        """From all that is known of a detector with these classes.

        Raises:
            DataError: no object is annotated.
        """
        places = np.flatnonzero(evaluation.objects)
        if not places.size:
            raise DataError("there is no precision and recall: the data has no object that counts")
        precision, scores = (
            values[[IOU_50, IOU_75]][..., places].transpose(0, 2, 1)
            for values in (evaluation.precision[..., 0], evaluation.scores)
        )
        labels = evaluation.labels[places]
        return cls(
            class_names=tuple(class_names[label] for label in labels),
            labels=labels,
            recall=RECALL_THRESHOLDS,
            precision=precision,
            scores=np.where(precision > 0, scores, np.nan),
            best=tuple(evaluation.best[place] for place in places),
        )

    def mean(self) -> NDArray[np.float64]:
        """Over the classes: ``[2, 101]``. Their means are ``map_50`` and ``map_75``."""
        return np.asarray(self.precision.mean(axis=1))

    def rows(self) -> list[list[str | float]]:
        """All points under headings: class (empty for the mean of all), IoU, recall, precision, score."""
        rows: list[list[str | float]] = [["class", "iou", "recall", "precision", "score"]]
        for at, iou in enumerate(IOUS):
            for name, precision, scores in zip(self.class_names, self.precision[at], self.scores[at], strict=True):
                for point in zip(self.recall.tolist(), precision.tolist(), scores.tolist(), strict=True):
                    recall, value, score = point
                    rows.append([name, iou, recall, value, "" if np.isnan(score) else score])
            rows += [
                ["", iou, *point, ""] for point in zip(self.recall.tolist(), self.mean()[at].tolist(), strict=True)
            ]
        return rows

    def save(self, path: str | Path) -> None:
        """Write a picture (``.png``, ``.svg``), or the points (``.csv``).

        Raises:
            ConfigError: the name has another ending.
            BackendUnavailableError: a picture needs matplotlib, which is not installed.
            AutoTimmError: the file cannot be written.
        """
        target = Path(path)
        check_curve_file(target)
        with replacing(target) as temporary:
            if target.suffix.lower() == ".csv":
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(self.rows())
            else:
                from autotimm.evaluation.plot import plot_precision_recall

                plot_precision_recall(self, temporary)


def check_curve_file(path: Path) -> None:
    """Refuse early what :meth:`PrecisionRecall.save` could not write after a long evaluation.

    Raises:
        ConfigError: the name of the file does not say what to write.
        BackendUnavailableError: a picture needs matplotlib, which is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: curves are written to files that end in {', '.join(ENDINGS)}")
    if path.suffix.lower() != ".csv":
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise BackendUnavailableError.from_import_error(error, "a picture of precision and recall") from error
