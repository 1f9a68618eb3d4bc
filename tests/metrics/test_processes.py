"""Figures of several processes are those of one that has seen everything.

Run as a program, this file is one of these processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotimm.data.batch import GroundTruth, InstanceTruth
from autotimm.metrics import MetricConfig, TaskMetric, build_metric
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.results import Classification, Detections
from autotimm.runtime.segmentation_results import Instances, SemanticMask

IMAGES, CLASSES = 11, 7
NAMES = tuple("abcdefg")
OWN = """
class Widest:
    def __init__(self):
        self.reset()

    def reset(self):
        self.all = []

    def update(self, predictions, truths):
        self.all.append(predictions[:, 0])

    def compute(self):
        import torch

        seen = torch.cat(self.all)
        return {"range": seen.max() - seen.min(), "order": (seen * torch.arange(len(seen))).sum(), "images": len(seen)}
"""
CLASSIFICATION = (
    MetricConfig("f1", metric_class="F1Score", params={"average": None}),  # adds up what each process has counted
    MetricConfig("auroc", metric_class="AUROC"),  # keeps everything
    MetricConfig("widest", "custom", "own_in_processes.Widest"),  # knows of no processes
)
DETECTION = (MetricConfig("ap", metric_class="MeanAveragePrecision"), MetricConfig("IntersectionOverUnion"))


def classified(multi_label: bool) -> tuple[TaskMetric, list[Any], list[Any]]:
    random = np.random.default_rng(0)
    probabilities = random.random((IMAGES, CLASSES)).astype(np.float32)
    none = np.zeros(0, np.int32)
    results = [Classification((4, 4), NAMES, row, row[:0], none) for row in probabilities]
    labels = random.integers(0, 2, (IMAGES, CLASSES)) if multi_label else np.arange(IMAGES) % CLASSES
    metric = build_metric(
        "classification", CLASSES, class_names=NAMES, multi_label=multi_label, extra=CLASSIFICATION, threshold=0.4
    )
    return metric, results, list(labels)


def detected(blind: bool) -> tuple[TaskMetric, list[Any], list[Any]]:
    """Boxes beside the annotated ones, a number that differs from image to image; nothing found where blind."""
    random = np.random.default_rng(1)
    results, truths = [], []
    for index in range(IMAGES):
        corner = random.uniform(0, 80, (index % 4, 2))
        boxes = np.concatenate([corner, corner + random.uniform(5, 40, corner.shape)], axis=1).astype(np.float32)
        labels = random.integers(0, CLASSES, len(boxes))
        found = boxes[:0] if blind else np.concatenate([boxes + 1, boxes[:1] * 0.7])
        scores = random.random(len(found)).astype(np.float32)
        theirs = np.resize(labels, len(found)).astype(np.int32)
        results.append(Detections((200, 200), NAMES, found.astype(np.float32), scores, theirs))
        area = torch.from_numpy(boxes[:, 2] - boxes[:, 0])
        truths.append(GroundTruth(torch.from_numpy(boxes), torch.from_numpy(labels), torch.zeros(len(boxes)) > 0, area))
    return build_metric("detection", CLASSES, class_names=NAMES, extra=() if blind else DETECTION), results, truths


def segmented() -> tuple[TaskMetric, list[Any], list[Any]]:
    """The same boxes, filled; the masks of what is found are those of the annotated objects, moved by a pixel."""
    _, boxed, truths = detected(blind=False)
    results, filled = [], []
    for found, truth in zip(boxed, truths, strict=True):
        regions, theirs = (
            tuple(
                MaskRegion(int(box[1]), int(box[0]), np.ones((int(box[3] - box[1]), int(box[2] - box[0])), bool))
                for box in boxes
            )
            for boxes in (found.boxes, truth.boxes.numpy())
        )
        results.append(Instances((200, 200), NAMES, found.boxes, found.scores, found.labels, regions))
        masks = tuple(region.rle((200, 200)) for region in theirs)
        filled.append(InstanceTruth(*truth, masks))
    return build_metric("instance_segmentation", CLASSES, class_names=NAMES), results, filled


def labelled_pixels() -> tuple[TaskMetric, list[Any], list[Any]]:
    """Masks of images of different sizes."""
    random = np.random.default_rng(2)
    sizes = [(3 + index, 5) for index in range(IMAGES)]
    results = [SemanticMask(size, NAMES, random.integers(0, CLASSES, size).astype(np.uint8)) for size in sizes]
    truths = [random.integers(0, CLASSES, size) for size in sizes]
    extra = (MetricConfig("f1", metric_class="F1Score", params={"average": None}),)
    return build_metric("semantic_segmentation", CLASSES, class_names=NAMES, extra=extra), results, truths


def figures(start: int, stop: int) -> dict[str, Any]:
    """Of the images from ``start`` to ``stop``, in batches of two."""
    cases = {
        "single": classified(multi_label=False),
        "multi": classified(multi_label=True),
        "boxes": detected(blind=False),
        "blind": detected(blind=True),
        "masks": segmented(),
        "pixels": labelled_pixels(),
    }
    values: dict[str, Any] = {}
    for name, (metric, results, truths) in cases.items():
        metric.to("cpu")
        for _ in range(2):  # the second time after a reset
            metric.reset()
            for first in range(start, stop, 2):
                last = min(first + 2, stop)
                metric.update(results[first:last], truths[first:last])
            values[name] = metric.compute()
        if name in ("single", "multi", "pixels"):
            values[f"{name}_confusion"] = metric.confusion().tolist()  # type: ignore[attr-defined]
    return values


@pytest.mark.parametrize("split", [6, IMAGES], ids=["unequal shares", "one process has nothing"])
def test_two_processes_have_the_figures_of_one(split: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_in_processes.py").write_text(OWN)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path), str(split)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:  # one that waits for another which has failed
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    monkeypatch.syspath_prepend(tmp_path)
    expected = figures(0, IMAGES)
    assert expected["single"]["widest/images"] == IMAGES
    assert 0 < expected["boxes"]["map"] < 1
    assert expected["blind"]["map"] == 0
    assert 0 < expected["masks"]["mask_map"] < 1
    assert 0 < expected["pixels"]["miou"] < 1
    for output in outputs:
        values = json.loads(output.splitlines()[-1])
        assert values.keys() == expected.keys()
        for name, one in expected.items():
            assert values[name] == (one if "confusion" in name else pytest.approx(one, abs=1e-6)), name


if __name__ == "__main__":
    rank, folder, split = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.path.insert(0, str(folder))
    warnings.simplefilter("ignore")  # that a process without images computes figures
    torch.distributed.init_process_group("gloo", init_method=(folder / "rendezvous").as_uri(), rank=rank, world_size=2)
    of_this_process = figures(*((0, split) if rank == 0 else (split, IMAGES)))
    torch.distributed.destroy_process_group()
    sys.stdout.write(json.dumps(of_this_process) + "\n")
