import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from autotimm.data.batch import InstanceTruth
from autotimm.data.instance_masks import region_of
from autotimm.metrics import InstanceMetric, MetricConfig
from autotimm.runtime.errors import DataError
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.results import Detections
from autotimm.runtime.segmentation_results import Instances

SIZES = ((200, 240), (180, 160), (90, 300), (60, 60))
CATEGORIES = (3, 7, 12)
NAMES = ("a", "b", "c")
KEYS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


def drawn(size: tuple[int, int], center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 <= 1


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def scene() -> tuple[dict[str, Any], list[InstanceTruth], list[Instances]]:
    """A COCO file, the same as truths, and what was found: objects moved a little, some missed, some invented."""
    random = np.random.default_rng(4)
    images, annotations, truths, results = [], [], [], []
    for index, size in enumerate(SIZES):
        images.append({"id": 100 + index, "height": size[0], "width": size[1]})
        annotated: list[dict[str, Any]] = []
        found: list[tuple[np.ndarray, int, float]] = []
        for place in range(0 if index == 3 else 12):
            center, radii = random.uniform(0.15, 0.85, 2) * size, random.uniform(3, 0.35 * min(size), 2)
            mask, label = drawn(size, center, radii), int(random.integers(0, 3))
            rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            x1, y1, x2, y2 = box_of(mask)
            crowd = int(place == 5)
            annotated.append(
                {
                    "id": len(annotations) + len(annotated) + 1,
                    "image_id": 100 + index,
                    "category_id": CATEGORIES[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": {"size": list(size), "counts": rle["counts"].decode()},
                    "area": float(mask.sum()),
                    "iscrowd": crowd,
                }
            )
            for copy in range(int(random.integers(0, 3))):
                moved = drawn(size, center + random.normal(0, 1.5, 2) * (1 + copy), radii * random.uniform(0.8, 1.2, 2))
                if moved.any():
                    other = label if random.random() < 0.9 else (label + 1) % 3
                    found.append((moved, other, float(np.float32(random.random()))))
        annotations += annotated
        corners = torch.tensor([row["bbox"] for row in annotated]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        truths.append(
            InstanceTruth(
                corners,
                torch.tensor([CATEGORIES.index(row["category_id"]) for row in annotated], dtype=torch.int64),
                torch.tensor([bool(row["iscrowd"]) for row in annotated], dtype=torch.bool),
                torch.tensor([row["area"] for row in annotated]),
                tuple(row["segmentation"] for row in annotated),
            )
        )
        found.sort(key=lambda one: -one[2])
        results.append(
            Instances(
                size,
                NAMES,
                np.array([box_of(mask) for mask, _, _ in found], np.float32).reshape(-1, 4),
                np.array([score for _, _, score in found], np.float32),
                np.array([label for _, label, _ in found], np.int32),
                tuple(MaskRegion.of(mask) for mask, _, _ in found),
            )
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": one} for one in CATEGORIES]}
    return content, truths, results


def official(content: dict[str, Any], results: list[Instances], kind: str) -> COCOeval:
    """pycocotools' own reading of ``to_coco``; for masks without the boxes, by whose area it would go."""
    rows = [row for index, one in enumerate(results) for row in one.to_coco(100 + index, CATEGORIES)]
    unwanted = "bbox" if kind == "segm" else "segmentation"
    rows = [{name: value for name, value in row.items() if name != unwanted} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_figures_are_those_of_pycocotools() -> None:
    content, truths, results = scene()
    metric = InstanceMetric(3)
    metric.update(results[:1], truths[:1])
    metric.update(results[1:], truths[1:])
    found = metric.compute()
    expected = {
        f"{name}_{key}": value
        for kind, name in (("segm", "mask"), ("bbox", "box"))
        for key, value in zip(KEYS, official(content, results, kind).stats, strict=False)
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert 0.1 < found["mask_map"] < found["mask_map_50"] < 0.95
    assert min(found.values()) >= 0, "objects of every size are annotated"
    assert found["mask_map"] != pytest.approx(found["box_map"], abs=1e-3)
    assert np.mean(list(metric.compute_per_class().values())) == pytest.approx(found["mask_map"])
    metric.reset()
    with pytest.raises(DataError, match="no images"):
        metric.compute()


def test_finding_nothing_and_finding_all_of_it() -> None:
    _, truths, results = scene()
    metric = InstanceMetric(3)
    metric.update([results[0].above(2.0)], truths[:1])
    assert metric.compute()["mask_map"] == 0.0
    truth = truths[0]
    kept = ~truth.crowd
    exact = Instances(
        SIZES[0],
        NAMES,
        truth.boxes[kept].numpy(),
        np.linspace(1, 0.5, int(kept.sum()), dtype=np.float32),
        truth.labels[kept].numpy().astype(np.int32),
        tuple(region_of(truth.masks[index]) for index in torch.nonzero(kept)[:, 0].tolist()),
    )
    metric.reset()
    metric.update([exact], truths[:1])
    values = metric.compute()
    assert values["mask_map"] == values["box_map"] == pytest.approx(1.0)


def test_further_metrics_are_of_the_boxes() -> None:
    _, truths, results = scene()
    metric = InstanceMetric(3, extra=[MetricConfig("ap", metric_class="MeanAveragePrecision")])
    metric.update(results, truths)
    values = metric.compute()
    assert values["ap/map_50"] == pytest.approx(values["box_map_50"], abs=1e-4)


def test_results_of_another_task_are_refused() -> None:
    _, truths, results = scene()
    boxes = Detections(SIZES[0], NAMES, results[0].boxes, results[0].scores, results[0].labels)
    with pytest.raises(TypeError, match="masks of Detections"):
        InstanceMetric(3).update([boxes], truths[:1])
    with pytest.raises(ValueError, match="2 results, but 1 truths"):
        InstanceMetric(3).update(results[:2], truths[:1])
