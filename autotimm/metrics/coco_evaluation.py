"""COCO's evaluation of boxes, by pycocotools: everything that is told of detectors comes from one run of it."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

IOU_50, IOU_75 = 0, 5
"""Places of these thresholds among pycocotools' ten, .50 to .95."""
RECALL_THRESHOLDS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
"""Those of pycocotools (``Params.setDetParams``), at which precision is interpolated."""

_AREAS = ("all", "small", "medium", "large")
"""In pycocotools' order: up to 32 x 32 pixels, to 96 x 96, and larger."""


class BestF1(NamedTuple):
    """The score from which on the detections of a class have the highest F1 at IoU .5; NaN where none is right."""

    f1: float
    score: float
    """Those with this score or a higher one are kept."""
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class CocoEvaluation:
    """What pycocotools gives for at most 100 detections of a class an image, and how many objects there are.

    ``K`` is the number of classes that are annotated somewhere; only they count. Where a class has no object of some
    size (or crowds only), its entries are -1, as pycocotools has it.
    """

    labels: NDArray[np.int64]
    """``[K]`` class indices, rising."""
    precision: NDArray[np.float64]
    """``[10, 101, K, 4]``: by IoU, recall, class and size (all, small, medium, large). At each recall the highest
    precision at this or a higher one, 0 past the highest that is reached."""
    recall: NDArray[np.float64]
    """``[10, K, 4]``: the highest that is reached."""
    scores: NDArray[np.float64]
    """``[10, 101, K]``: of the detection at which each recall is reached, of all sizes; 0 where it is not."""
    objects: NDArray[np.int64]
    """``[K]``: annotated objects, crowds not among them."""
    images: NDArray[np.int64]
    """``[K]``: images with such objects."""
    best: tuple[BestF1, ...]
    """``[K]``"""

    def summary(self) -> dict[str, float]:
        """``map``, ``map_50``, ``map_75``, ``map_small``, ``map_medium``, ``map_large``; -1 without annotations."""
        everything = self.precision[..., 0]
        values = {
            "map": _mean(everything),
            "map_50": _mean(everything[IOU_50]),
            "map_75": _mean(everything[IOU_75]),
        }
        for place, name in enumerate(_AREAS[1:], start=1):
            values[f"map_{name}"] = _mean(self.precision[..., place])
        return values


def evaluate_coco(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
) -> CocoEvaluation:
    """Compare detections with annotations, image by image, in the order in which ties of scores are to be broken.

    Args:
        predictions: for each image ``boxes`` float32 ``[n, 4]`` xyxy, ``scores`` and ``labels`` ``[n]``, best first.
        targets: for each image ``boxes``, ``labels``, ``iscrowd`` and ``area``.
    """
    annotations = [row for image, target in enumerate(targets) for row in _annotations(image, target)]
    detections = [row for image, found in enumerate(predictions) for row in _detections(image, found)]
    categories = sorted({row["category_id"] for row in annotations})
    if not categories:
        return _nothing_annotated()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        truth, found_ = (_indexed(rows, len(targets), categories) for rows in (annotations, detections))
        evaluation = COCOeval(truth, found_, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    raw = evaluation.eval
    counted = [(row["category_id"], row["image_id"]) for row in annotations if not row["iscrowd"]]
    objects_of, images_of = Counter(label for label, _ in counted), Counter(label for label, _ in set(counted))
    by_class = np.array(evaluation.evalImgs, dtype=object).reshape(len(categories), len(_AREAS), len(targets))
    return CocoEvaluation(
        labels=np.array(categories, dtype=np.int64),
        precision=raw["precision"][..., -1],
        recall=raw["recall"][..., -1],
        scores=raw["scores"][..., 0, -1],
        objects=np.array([objects_of[label] for label in categories], dtype=np.int64),
        images=np.array([images_of[label] for label in categories], dtype=np.int64),
        best=tuple(
            _best_f1([row for row in rows[0] if row is not None], objects_of[label])
            for rows, label in zip(by_class, categories, strict=True)
        ),
    )


def _annotations(image: int, target: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    columns = (_xywh(target["boxes"]), *(target[name].tolist() for name in ("labels", "iscrowd", "area")))
    return [
        {"image_id": image, "category_id": int(label), "bbox": box, "iscrowd": int(crowd), "area": area}
        for box, label, crowd, area in zip(*columns, strict=True)
    ]


def _detections(image: int, found: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    columns = _xywh(found["boxes"]), found["labels"].tolist(), found["scores"].tolist()
    return [
        # as COCO.loadRes fills them in
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": box,
            "score": score,
            "iscrowd": 0,
            "area": box[2] * box[3],
        }
        for box, label, score in zip(*columns, strict=True)
    ]


def _xywh(boxes: Tensor) -> list[list[float]]:
    """In float64 from here on, as of boxes that were written to a COCO file."""
    corners = boxes.reshape(-1, 4).double()
    corners[:, 2:] -= corners[:, :2]
    rows: list[list[float]] = corners.tolist()
    return rows


def _indexed(rows: list[dict[str, Any]], images: int, categories: Sequence[int]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": category} for category in categories],
        # from 1 on: pycocotools takes the id 0 of a match for none
        "annotations": [{"id": number, **row} for number, row in enumerate(rows, start=1)],
    }
    coco.createIndex()
    return coco


def _best_f1(images: Sequence[Mapping[str, Any]], objects: int) -> BestF1:
    """From pycocotools' matches of one class. They go by falling score, so those from a score on are a beginning."""
    scores = np.concatenate([row["dtScores"] for row in images]) if images else np.empty(0)
    if objects and len(scores):
        order = np.argsort(-scores, kind="mergesort")
        matched = np.concatenate([row["dtMatches"][IOU_50] > 0 for row in images])[order]
        counted = ~np.concatenate([row["dtIgnore"][IOU_50] for row in images]).astype(np.bool_)[order]
        scores = scores[order]
        right, kept = np.cumsum(matched & counted), np.cumsum(counted)
        f1 = 2 * right / (kept + objects)
        f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold takes all of one score, or none
        best = int(np.argmax(f1))
        if right[best]:
            return BestF1(*map(float, (f1[best], scores[best], right[best] / kept[best], right[best] / objects)))
    return BestF1(0.0 if objects else np.nan, np.nan, np.nan, np.nan)


def _nothing_annotated() -> CocoEvaluation:
    none = np.empty(0, dtype=np.int64)
    shape = (10, len(RECALL_THRESHOLDS), 0)
    return CocoEvaluation(
        none, np.empty((*shape, len(_AREAS))), np.empty((10, 0, len(_AREAS))), np.empty(shape), none, none, ()
    )


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
