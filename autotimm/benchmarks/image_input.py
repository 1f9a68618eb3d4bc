"""What ``--input image`` gives beside ``--input batch`` with the resize on the host:
``python -m autotimm.benchmarks.image_input [CHECKPOINT...]``.

Each model is exported three times: for batches, and with the resize in the graph for both targets. Ten photos, from
50x50 to 4000x3000, go through all three. Without checkpoints the models have random weights. Needs the extra
``export``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from autotimm.benchmarks.timing import clock
from autotimm.export import export_to_onnx
from autotimm.export.comparison import Differences, compare_classifications, compare_detections
from autotimm.export.internals import internal_values
from autotimm.export.tolerances import Matching
from autotimm.models import ImageClassifier, InstanceSegmentor, SemanticSegmentor, TaskModel, YOLOXDetector
from autotimm.models.checkpoint import load_checkpoint
from autotimm.runtime import Instances, Placement, Predictor, fit_image, list_images, load, load_image
from autotimm.runtime.environment import diagnose
from autotimm.runtime.manifest import Target
from autotimm.runtime.pictures import generate
from autotimm.runtime.results import Classification, Detections, Result
from autotimm.runtime.segmentation_results import SemanticMask

SIZES = (
    (50, 50),
    (64, 300),
    (500, 120),
    (333, 500),
    (480, 640),
    (640, 480),
    (720, 1280),
    (1000, 1000),
    (1920, 1080),
    (3000, 4000),
)
"""``(height, width)`` of the photos."""
MATCHING = Matching(iou=0.9, box_px=0.5, score=5e-3)
TIMED = ((720, 1280), (3000, 4000))


@dataclass
class Row:
    """One model with the resize in its graph, for one target, beside the same model on batches."""

    model: str
    fit: str
    interpolation: str
    target: str
    grey_levels: float = 0.0
    """The largest difference of the network's input."""
    other_levels: float = 0.0
    """The share of its values that differ."""
    boxes: int = 0
    box_px: float = 0.0
    """The largest difference after matching, in source pixels."""
    unmatched: int = 0
    score: float = 0.0
    """The largest difference of a score, or of a probability."""
    equal_pixels: float = 1.0
    """Of masks, at source size: the least share in one image; of objects the share of the union of all."""
    milliseconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By the size of the photo: ``predict()`` on the decoded photo with the resize on the host, and in the graph."""


def untrained() -> list[TaskModel]:
    """A model of each task and each fit, with random weights."""
    torch.manual_seed(0)
    stretched = ImageClassifier("test_resnet", 10, pretrained=False)
    stretched.preprocess = replace(stretched.preprocess, fit="stretch", interpolation="bicubic")
    return [
        YOLOXDetector("yolox-nano", 80),
        ImageClassifier("test_efficientnet", 10, pretrained=False),
        stretched,
        SemanticSegmentor("test_resnet", 3, pretrained=False),
        InstanceSegmentor("test_resnet", 2, pretrained=False),
    ]


def photos(folder: Path | None) -> list[NDArray[np.uint8]]:
    """One of each size: cut from the images of a folder, or generated."""
    if folder is None:
        return [generate(*size, seed) for seed, size in enumerate(SIZES)]
    found = list_images(folder)
    chosen = [Image.fromarray(load_image(found[index * len(found) // len(SIZES)])) for index in range(len(SIZES))]
    return [
        np.asarray(ImageOps.fit(photo, (width, height))) for photo, (height, width) in zip(chosen, SIZES, strict=True)
    ]


def measure(model: TaskModel, images: Sequence[NDArray[np.uint8]], runs: int) -> Iterator[Row]:
    """Both targets of one model."""
    with tempfile.TemporaryDirectory() as folder:
        on_host = Path(folder) / "batch.onnx"
        export_to_onnx(model, on_host, verify=False)
        for target in get_args(Target):
            in_graph = Path(folder) / f"{target}.onnx"
            export_to_onnx(model, in_graph, input="image", target=target, verify=False)
            with load(on_host) as batch, load(in_graph) as image:
                row = _compare(batch, image, in_graph, images)
                row.milliseconds = _times(batch, image, images, runs)
                yield row


def _compare(batch: Predictor, image: Predictor, artifact: Path, images: Sequence[NDArray[np.uint8]]) -> Row:
    manifest = image.manifest
    preprocess, differences = manifest.preprocess, Differences()
    look_inside = internal_values(artifact, ("pixels",))
    levels, others, common, union = 0.0, [], 0, 0
    equal = [1.0]
    for photo in images:
        apart = np.abs(look_inside(photo)["pixels"] - fit_image(photo, preprocess)[0].astype(np.float32))
        levels = max(levels, float(apart.max()))
        others.append(float((apart > 0).mean()))
        expected, found = batch.predict(photo), image.predict(photo)
        pairs = _differences(differences, expected, found, manifest.thresholds)
        if isinstance(expected, SemanticMask) and isinstance(found, SemanticMask):
            equal.append(float((expected.mask == found.mask).mean()))
        if isinstance(expected, Instances) and isinstance(found, Instances):
            for row, column in pairs.tolist():
                one, other = expected.regions[row], found.regions[column]
                overlap = one.iou(other)
                shared = (one.area + other.area) * overlap / (1 + overlap)
                common, union = common + shared, union + one.area + other.area - shared
    return Row(
        f"{manifest.model_class} {manifest.architecture}",
        preprocess.fit,
        preprocess.interpolation + ("" if preprocess.antialias else ", not antialiased"),
        manifest.target,
        grey_levels=levels,
        other_levels=float(np.mean(others)),
        boxes=differences.compared["detections"],
        box_px=differences.worst.get("box_px", 0.0),
        unmatched=differences.compared["unmatched"],
        score=max(differences.worst.get(name, 0.0) for name in ("score", "probability")),
        equal_pixels=common / union if union else min(equal),
    )


def _differences(
    differences: Differences, expected: Result, found: Result, thresholds: dict[str, float]
) -> NDArray[np.intp]:
    """Note what lies between two results of one photo, boxes in its own pixels; which objects are the same."""
    if isinstance(expected, Classification) and isinstance(found, Classification):
        compare_classifications(differences, expected, found, MATCHING)
    if isinstance(expected, Detections | Instances) and isinstance(found, Detections | Instances):
        return compare_detections(
            differences,
            expected,
            found,
            Placement(expected.image_size, expected.image_size, (0, 0)),
            thresholds=thresholds,
            matching=MATCHING,
        )
    return np.empty((0, 2), np.intp)


def _times(
    batch: Predictor, image: Predictor, images: Sequence[NDArray[np.uint8]], runs: int
) -> dict[str, tuple[float, float]]:
    """Medians of ``predict()``; the two take turns, so that a machine whose speed drifts favours neither."""
    seconds: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for photo in images:
        if photo.shape[:2] in TIMED:
            for _ in range(runs):
                for predictor, times in zip((batch, image), seconds[f"{photo.shape[1]}x{photo.shape[0]}"], strict=True):
                    times.append(clock(lambda: predictor.predict(photo)))  # noqa: B023 (called at once)
    return {
        size: (1000 * statistics.median(host), 1000 * statistics.median(graph))
        for size, (host, graph) in seconds.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare the resize in the graph with that on the host.")
    parser.add_argument("checkpoint", nargs="*", type=Path, help="models (default: one of each task, random weights)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="cut the photos from these (default: generated)")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each (default 15)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    options = parser.parse_args(arguments)
    models = [load_checkpoint(path) for path in options.checkpoint] or untrained()
    images = photos(options.photos)
    rows = [row for model in models for row in measure(model.eval(), images, options.runs)]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    columns = ("model", "fit, filter", "target", "grey levels", "differ", "boxes", "px", "unmatched", "score")
    table = Table(*columns, "equal pixels", *(f"{w}x{h}: host, graph ms" for h, w in TIMED), box=None)
    for row in rows:
        table.add_row(
            row.model,
            f"{row.fit}, {row.interpolation}",
            row.target,
            f"{row.grey_levels:.0f}",
            f"{100 * row.other_levels:.3f} %",
            *((str(row.boxes), f"{row.box_px:.3f}", str(row.unmatched)) if row.boxes else ("", "", "")),
            f"{row.score:.1e}",
            f"{100 * row.equal_pixels:.3f} %",
            *(f"{host:.0f}, {graph:.0f}" for host, graph in row.milliseconds.values()),
        )
    console = Console(width=240)
    console.print(table)
    console.print("\n".join(f"{finding.what}: {finding.found}" for finding in diagnose() if finding.works))


if __name__ == "__main__":
    main()
