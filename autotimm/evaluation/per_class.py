"""Figures of each class: of detectors from pycocotools, of classes of images and pixels from the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.metrics.coco_evaluation import IOU_50, IOU_75, CocoEvaluation

ClassRow = dict[str, Any]
"""``class``, a name, and figures; NaN where one is not defined."""


def detection_rows(evaluation: CocoEvaluation, class_names: Sequence[str]) -> list[ClassRow]:
    """``ap``, ``ap_50``, ``ap_75``, ``ar_100``; ``objects``, ``images``; and where F1 at IoU .5 is highest.

    That is ``best_f1``, with the ``precision`` and ``recall`` there, and the ``threshold``: the lowest score kept.

    Args:
        evaluation: of all classes that are annotated.
        class_names: of the model; a class that is not annotated has no objects, and no figure is defined.
    """
    place_of = {int(label): place for place, label in enumerate(evaluation.labels)}
    rows = []
    for label, name in enumerate(class_names):
        place = place_of.get(label)
        if place is None or not evaluation.objects[place]:
            precision, recall = np.full((10, 101), math.nan), np.full(10, math.nan)
            objects, images, best = 0, 0, (math.nan,) * 4
        else:
            precision, recall = evaluation.precision[:, :, place, 0], evaluation.recall[:, place, 0]
            objects, images = int(evaluation.objects[place]), int(evaluation.images[place])
            best = evaluation.best[place]
        row = {
            "ap": float(precision.mean()),
            "ap_50": float(precision[IOU_50].mean()),
            "ap_75": float(precision[IOU_75].mean()),
            "ar_100": float(recall.mean()),
        }
        row |= dict(zip(("best_f1", "threshold", "precision", "recall"), best, strict=True))
        rows.append({"class": name, "objects": objects, "images": images, **row})
    return rows


def classification_rows(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[ClassRow]:
    """``images`` of the class, ``precision``, ``recall`` and ``f1``.

    Precision is not defined where a class is never predicted, recall where it has no images, F1 where neither is.

    Args:
        confusion: ``[C, C]``, or ``[C, 2, 2]`` for several labels an image, truths in rows.
        class_names: ``[C]``
    """
    if confusion.ndim == 2:
        right = confusion.diagonal()
        truly, told = confusion.sum(axis=1), confusion.sum(axis=0)
    else:
        right = confusion[:, 1, 1]
        truly, told = confusion[:, 1].sum(axis=1), confusion[:, :, 1].sum(axis=1)
    return [
        {
            "class": name,
            "images": int(there),
            "precision": _ratio(hits, predicted),
            "recall": _ratio(hits, there),
            "f1": _ratio(2 * hits, there + predicted),
        }
        for name, hits, there, predicted in zip(class_names, right, truly, told, strict=True)
    ]


def pixel_rows(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[ClassRow]:
    """``pixels`` annotated, ``iou``, ``precision``, ``recall`` (the accuracy of the class).

    IoU is not defined where a class is neither annotated nor found.

    Args:
        confusion: ``[C, C]`` pixels, truths in rows.
        class_names: ``[C]``
    """
    right = confusion.diagonal()
    truly, told = confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "class": name,
            "pixels": int(there),
            "iou": _ratio(hits, there + found - hits),
            "precision": _ratio(hits, found),
            "recall": _ratio(hits, there),
        }
        for name, hits, there, found in zip(class_names, right, truly, told, strict=True)
    ]


def instance_rows(mask_ap: Mapping[int, float], class_names: Sequence[str]) -> list[ClassRow]:
    """``mask_ap``, which is not defined where no object of the class is annotated.

    Args:
        mask_ap: by class index.
        class_names: ``[C]``
    """
    return [{"class": name, "mask_ap": mask_ap.get(index, math.nan)} for index, name in enumerate(class_names)]


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan
