"""COCO average precision, from the results that any artifact or model gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchmetrics.detection import MeanAveragePrecision

from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Detections, Result

if TYPE_CHECKING:
    from autotimm.data.batch import GroundTruth

_REPORTED = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


class DetectionMetric:
    """COCO AP of boxes in source pixels, over IoU .5 to .95 and at most 100 detections an image.

    Computed by pycocotools. Crowd boxes neither count nor harm, and an object is small, medium or large by its
    annotated area, as in the official evaluation. In a training on several devices each process measures its share.

    Args:
        num_classes: of the model; labels lie in 0..num_classes - 1.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._images = 0
        self._ap = MeanAveragePrecision(
            box_format="xyxy",
            # torchmetrics' own grids are float32; these are pycocotools' (cocoeval.py, Params.setDetParams)
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
            backend="pycocotools",
            sync_on_compute=False,
            compute_with_cache=False,
        )
        self._ap.warn_on_many_detections = False  # COCO's limit of 100 an image is part of what is measured

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""
        self._ap.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        self._images = 0
        self._ap.reset()

    def update(self, results: Sequence[Result], truths: Sequence[GroundTruth]) -> None:
        """Add the detections of some images and what is annotated in each."""
        predictions = [_prediction(result) for result in results]
        targets = [
            {
                "boxes": truth.boxes.reshape(-1, 4),
                "labels": truth.labels,
                "iscrowd": truth.crowd.long(),
                "area": truth.area,
            }
            for truth in truths
        ]
        if len(predictions) != len(targets):
            raise ValueError(f"{len(predictions)} results, but {len(targets)} truths")
        self._images += len(targets)
        self._ap.update(predictions, targets)

    def compute(self) -> dict[str, float]:
        """``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``.

        Each is 0..1, or -1 as pycocotools has it where nothing of the kind is annotated.

        Raises:
            DataError: nothing has been seen.
        """
        values = self._computed(per_class=False)
        return {name: float(values[name]) for name in _REPORTED}

    def compute_per_class(self) -> dict[int, float]:
        """AP (IoU .5 to .95) of each class index that is annotated somewhere; the mean of them is ``map``."""
        values = self._computed(per_class=True)
        pairs = zip(values["classes"].reshape(-1).tolist(), values["map_per_class"].reshape(-1).tolist(), strict=True)
        return {label: value for label, value in pairs if value >= 0}

    def _computed(self, per_class: bool) -> dict[str, torch.Tensor]:
        if self._images == 0:
            raise DataError("there is no average precision of no images: the evaluation set is empty")
        self._ap.class_metrics = per_class
        computed: dict[str, torch.Tensor] = self._ap.compute()
        return computed


def _prediction(result: Result) -> dict[str, torch.Tensor]:
    if not isinstance(result, Detections):
        raise TypeError(f"the average precision of {type(result).__name__} is not defined")
    return {
        "boxes": torch.from_numpy(result.boxes.reshape(-1, 4).copy()),
        "scores": torch.from_numpy(result.scores.copy()),
        "labels": torch.from_numpy(result.labels.astype(np.int64)),
    }
