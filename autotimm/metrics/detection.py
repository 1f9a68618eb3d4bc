"""COCO average precision, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from autotimm.metrics.coco_evaluation import CocoEvaluation, evaluate_coco
from autotimm.metrics.config import MetricConfig
from autotimm.metrics.configured import ConfiguredMetrics
from autotimm.metrics.gathering import GatheredRows
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Detections, Result

if TYPE_CHECKING:
    from autotimm.data.batch import GroundTruth

_REPORTED = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
_Objects = dict[str, Tensor]


class DetectionMetric:
    """COCO AP of boxes in source pixels, over IoU .5 to .95 and at most 100 detections of a class an image.

    Computed by pycocotools. Crowd boxes neither count nor harm, and an object is small, medium or large by its
    annotated area, as in the official evaluation. Where several processes share the images, each updates its own
    object, and all of them get the figures of the whole.

    Args:
        num_classes: of the model; labels lie in 0..num_classes - 1.
        class_names: for figures that are given class by class.
        extra: further metrics, which get a list of dictionaries each: ``boxes`` float32 ``[n, 4]`` xyxy, ``scores``,
            ``labels`` int64; and ``boxes``, ``labels``, ``iscrowd``, ``area``.

    Raises:
        ConfigError: one of ``extra`` cannot be made.
    """

    def __init__(
        self, num_classes: int, *, class_names: Sequence[str] = (), extra: Sequence[MetricConfig] = ()
    ) -> None:
        self.num_classes = num_classes
        # torchmetrics gathers detections image by image, and only where each process has as many images
        self._rows = GatheredRows(
            found=torch.empty(0, 6),  # box, score, label: exact in float32 up to 16 million classes
            annotated=torch.empty(0, 7),  # box, label, crowd, area
            counts=torch.empty(0, 2, dtype=torch.int64),  # of both, for each image
        )
        self._extra = ConfiguredMetrics(
            extra,
            class_names or [str(index) for index in range(num_classes)],
            {"num_classes": num_classes},
            taken=_REPORTED,
        )
        self._known: tuple[int, CocoEvaluation] | None = None

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""
        self._rows.to(device)
        self._extra.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        self._known = None
        self._rows.reset()
        self._extra.reset()

    def update(self, results: Sequence[Result], truths: Sequence[GroundTruth]) -> None:
        """Add the detections of some images and what is annotated in each."""
        predictions = [_prediction(result) for result in results]
        targets = [_target(truth) for truth in truths]
        if len(predictions) != len(targets):
            raise ValueError(f"{len(predictions)} results, but {len(targets)} truths")
        if not targets:
            return
        self._rows.update(
            found=torch.cat([_as_rows(objects, ("scores", "labels")) for objects in predictions]),
            annotated=torch.cat([_as_rows(objects, ("labels", "iscrowd", "area")) for objects in targets]),
            counts=torch.tensor(
                [(len(a["boxes"]), len(b["boxes"])) for a, b in zip(predictions, targets, strict=True)]
            ),
        )
        self._extra.update(predictions, targets)

    def compute(self) -> dict[str, float]:
        """``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``.

        Each is 0..1, or -1 as pycocotools has it where nothing of the kind is annotated.

        Raises:
            ConfigError: a further metric gives something that is no figure.
            DataError: nothing has been seen.
        """
        predictions, targets = self._everything()
        values = self._evaluated(predictions, targets).summary()
        values.update(self._extra.compute(lambda: (predictions, targets)))
        return values

    def compute_per_class(self) -> dict[int, float]:
        """AP (IoU .5 to .95) of each class index that is annotated somewhere; the mean of them is ``map``."""
        evaluation = self.evaluation()
        means = evaluation.precision[..., 0].mean(axis=(0, 1))
        return {int(label): float(value) for label, value in zip(evaluation.labels, means, strict=True) if value >= 0}

    def evaluation(self) -> CocoEvaluation:
        """Precision and recall of each class that is annotated somewhere, over everything seen by all processes.

        Raises:
            DataError: nothing has been seen.
        """
        return self._evaluated(*self._everything())

    def _evaluated(self, predictions: list[_Objects], targets: list[_Objects]) -> CocoEvaluation:
        """Evaluate them once, however often they are asked for: rows only ever come to those that are there."""
        if self._known is None or self._known[0] != len(targets):
            self._known = len(targets), evaluate_coco(predictions, targets)
        return self._known[1]

    def _everything(self) -> tuple[list[_Objects], list[_Objects]]:
        """The detections and the annotations of each image that any process has seen."""
        rows = self._rows.gather()
        if not len(rows["counts"]):
            raise DataError("there is no average precision of no images: the evaluation set is empty")
        found, annotated = rows["counts"].T.tolist()
        predictions = [
            {"boxes": part[:, :4], "scores": part[:, 4], "labels": part[:, 5].long()}
            for part in torch.split(rows["found"], found)
        ]
        targets = [
            {"boxes": part[:, :4], "labels": part[:, 4].long(), "iscrowd": part[:, 5].long(), "area": part[:, 6]}
            for part in torch.split(rows["annotated"], annotated)
        ]
        return predictions, targets


def _prediction(result: Result) -> _Objects:
    if not isinstance(result, Detections):
        raise TypeError(f"the average precision of {type(result).__name__} is not defined")
    return {
        "boxes": torch.from_numpy(result.boxes.reshape(-1, 4).copy()),
        "scores": torch.from_numpy(result.scores.copy()),
        "labels": torch.from_numpy(result.labels.astype(np.int64)),
    }


def _target(truth: GroundTruth) -> _Objects:
    return {
        "boxes": truth.boxes.reshape(-1, 4),
        "labels": truth.labels,
        "iscrowd": truth.crowd.long(),
        "area": truth.area,
    }


def _as_rows(objects: _Objects, columns: Sequence[str]) -> Tensor:
    """Box and further columns of each object of an image: float32 ``[n, 4 + k]``."""
    return torch.cat([objects["boxes"].float(), *(objects[name].float()[:, None] for name in columns)], dim=1)
