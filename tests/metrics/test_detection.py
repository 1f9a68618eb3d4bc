import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autotimm.data.batch import GroundTruth
from autotimm.metrics.detection import DetectionMetric
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Detections

KEYS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
Rows = list[dict[str, Any]]


def official(annotations: dict[str, Any], detections: Rows) -> tuple[list[float], COCOeval]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist(), evaluation


def ours(annotations: dict[str, Any], detections: Rows) -> DetectionMetric:
    """The same images through the metric, in two updates."""
    categories = sorted(category["id"] for category in annotations["categories"])
    metric = DetectionMetric(len(categories))
    names = tuple(str(category) for category in categories)
    results, truths = [], []
    for image in annotations["images"]:
        rows = [row for row in detections if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([categories.index(row["category_id"]) for row in rows], dtype=np.int32)
        scores = np.array([row["score"] for row in rows], dtype=np.float32)
        results.append(Detections((480, 640), names, boxes.astype(np.float32), scores, labels))
        objects = [row for row in annotations["annotations"] if row["image_id"] == image["id"]]
        corners = torch.tensor([row["bbox"] for row in objects], dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        truths.append(
            GroundTruth(
                corners.float(),
                torch.tensor([categories.index(row["category_id"]) for row in objects], dtype=torch.int64),
                torch.tensor([bool(row["iscrowd"]) for row in objects], dtype=torch.bool),
                torch.tensor([row["area"] for row in objects], dtype=torch.float32),
            )
        )
    half = len(results) // 2
    metric.update(results[:half], truths[:half])
    metric.update(results[half:], truths[half:])
    return metric


def jittered(annotations: dict[str, Any], random: np.random.Generator, missed: float, extra: int) -> Rows:
    rows = []
    categories = [category["id"] for category in annotations["categories"]]
    for row in annotations["annotations"]:
        if random.random() < missed:
            continue
        x, y, w, h = row["bbox"]
        box = [x + random.normal() * w * 0.1, y + random.normal() * h * 0.1, w * random.uniform(0.8, 1.2), h]
        category = row["category_id"] if random.random() < 0.9 else int(random.choice(categories))
        rows.append((row["image_id"], category, box))
    images = [image["id"] for image in annotations["images"]]
    for _ in range(extra):
        box = [*random.uniform(0, 300, 2), *random.uniform(5, 150, 2)]
        rows.append((int(random.choice(images)), int(random.choice(categories)), [float(side) for side in box]))
    # float32 scores, all different, so that no order is left to chance
    scores = random.permutation(np.linspace(0.02, 0.98, len(rows), dtype=np.float32)).tolist()
    return [
        {"image_id": image, "category_id": category, "bbox": np.float32(box).tolist(), "score": score}
        for (image, category, box), score in zip(rows, scores, strict=True)
    ]


def random_annotations(random: np.random.Generator, images: int = 12) -> dict[str, Any]:
    annotations = []
    for image in range(1, images):  # the first image stays empty
        for _ in range(int(random.integers(0, 12))):
            box = [*random.uniform(0, 300, 2), *np.exp(random.uniform(1, 5.5, 2))]
            box = np.float32(box).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image * 7,
                    "category_id": int(random.choice([2, 5, 9])),
                    "bbox": box,
                    "area": float(np.float32(box[2] * box[3] * random.uniform(0.3, 1))),
                    "iscrowd": int(random.random() < 0.15),
                }
            )
    return {
        "info": {},
        "images": [{"id": image * 7} for image in range(images)],
        "categories": [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}, {"id": 9, "name": "c"}, {"id": 12, "name": "d"}],
        "annotations": annotations,
    }


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools_on_random_boxes(seed: int) -> None:
    random = np.random.default_rng(seed)
    annotations = random_annotations(random)
    detections = jittered(annotations, random, missed=0.2, extra=40)
    expected, evaluation = official(annotations, detections)
    metric = ours(annotations, detections)
    assert [metric.compute()[key] for key in KEYS] == pytest.approx(expected, abs=1e-6)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for label, value in metric.compute_per_class().items():
        assert value == pytest.approx(precision[:, :, label].mean(), abs=1e-6)
    assert 3 not in metric.compute_per_class()  # never annotated


def test_equals_pycocotools_on_coco(shared: Path) -> None:
    annotations = json.loads((shared / "data/inst/coco_train128/annotations/train.json").read_text())
    detections = jittered(annotations, np.random.default_rng(0), missed=0.1, extra=200)
    expected, _ = official(annotations, detections)
    values = ours(annotations, detections).compute()
    assert 0.1 < expected[0] < 0.9
    assert [values[key] for key in KEYS] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_the_best_f1_is_that_of_any_threshold(seed: int) -> None:
    """Each score as a threshold: what is below is taken away, and pycocotools asked how much is still found."""
    random = np.random.default_rng(seed)
    annotations = random_annotations(random)
    for row in annotations["annotations"]:
        row["iscrowd"] = 0
    detections = jittered(annotations, random, missed=0.2, extra=40)
    for row in detections:
        row["score"] = float(np.float32(round(row["score"], 1)))  # so that many have the same
    evaluation = ours(annotations, detections).evaluation()
    highest = dict.fromkeys(evaluation.labels.tolist(), (0.0, 1.0))
    for threshold in sorted({row["score"] for row in detections}, reverse=True):
        kept = [row for row in detections if row["score"] >= threshold]
        _, official_one = official(annotations, kept)
        for place, label in enumerate(evaluation.labels.tolist()):
            count = sum(row["category_id"] == official_one.params.catIds[label] for row in kept)
            objects = int(evaluation.objects[place])
            right = official_one.eval["recall"][0, label, 0, -1] * objects
            highest[label] = max(highest[label], (2 * right / (count + objects), threshold))
    for label, best in zip(evaluation.labels.tolist(), evaluation.best, strict=True):
        assert (best.f1, best.score) == pytest.approx(highest[label])
        assert 2 / (1 / best.precision + 1 / best.recall) == pytest.approx(best.f1)


def test_a_perfect_detector_and_a_crowd() -> None:
    truth = GroundTruth(
        torch.tensor([[0.0, 0.0, 50.0, 50.0], [100.0, 100.0, 200.0, 200.0]]),
        torch.tensor([0, 0]),
        torch.tensor([False, True]),
        torch.tensor([2500.0, 10000.0]),
    )
    boxes = np.array([[0, 0, 50, 50], [110, 110, 150, 150], [150, 150, 190, 190]], dtype=np.float32)
    found = Detections((240, 240), ("thing",), boxes, np.float32([0.5, 0.9, 0.8]), np.zeros(3, dtype=np.int32))
    metric = DetectionMetric(1)
    metric.update([found], [truth])
    values = metric.compute()
    assert values["map"] == pytest.approx(1.0)  # the two boxes in the crowd are no false positives
    assert values["map_small"] == -1.0
    assert values["map_medium"] == pytest.approx(1.0)


def test_more_than_a_hundred_detections_are_no_warning() -> None:
    truth = GroundTruth(
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0]), torch.tensor([False]), torch.tensor([64.0])
    )
    boxes = np.tile(np.float32([0, 0, 8, 8]), (150, 1))
    scores = np.linspace(1, 0.1, 150, dtype=np.float32)
    metric = DetectionMetric(1)
    metric.update([Detections((9, 9), ("a",), boxes, scores, np.zeros(150, dtype=np.int32))], [truth])
    assert metric.compute()["map"] == pytest.approx(1.0)


def test_reset_forgets() -> None:
    metric = DetectionMetric(1)
    nothing = np.zeros((0, 4), dtype=np.float32)
    empty = Detections((9, 9), ("a",), nothing, np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int32))
    truth = GroundTruth(
        torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([0]), torch.tensor([False]), torch.tensor([64.0])
    )
    metric.update([empty], [truth])
    assert metric.compute()["map"] == 0.0
    metric.reset()
    with pytest.raises(DataError, match="empty"):
        metric.compute()
    with pytest.raises(ValueError, match="1 results"):
        metric.update([empty], [])
