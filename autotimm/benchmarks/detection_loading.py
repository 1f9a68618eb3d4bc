"""Training images with boxes a second, as they are loaded: ``python -m autotimm.benchmarks.detection_loading``.

No model runs. The loader of ``DetectionDataModule`` is emptied with each augmentation, which take turns; what the
first epoch decodes, later ones may find in the cache, so that both are told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from autotimm.data import DetectionDataModule
from autotimm.data.yolox_recipe import YOLOXAugmentation
from autotimm.models.yolox.detector import yolox_preprocess
from autotimm.runtime.pictures import generate

SIZE = (480, 640)
"""Height and width of the generated pictures: those of most COCO photographs."""
OBJECTS = 8
"""In each of them; COCO has 7 a picture."""


@dataclass(frozen=True)
class Loading:
    """One pass over the training images."""

    augmentation: str
    epoch: int
    images_per_second: float


def write_boxes(root: Path, count: int) -> Path:
    """Generated photographs as JPEG, with random boxes in COCO JSON, as ``train`` and ``val``."""
    random = np.random.default_rng(0)
    (root / "images" / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    height, width = SIZE
    for index in range(count):
        name = f"{index:05d}.jpg"
        Image.fromarray(generate(height, width, index)).save(root / "images" / "train" / name, quality=90)
        content["images"].append({"id": index, "file_name": name, "width": width, "height": height})
        for _ in range(OBJECTS):
            sides = random.integers(20, 200, 2)
            x, y = random.integers(0, np.array([width, height]) - sides)
            box = [int(x), int(y), int(sides[0]), int(sides[1])]
            content["annotations"].append({"image_id": index, "category_id": 1, "bbox": box})
    (root / "annotations" / "train.json").write_text(json.dumps(content))
    return root


def load(root: Path, augmentation: str, recipe: YOLOXAugmentation, arguments: argparse.Namespace) -> list[Loading]:
    """The images a second of each epoch, at one size."""
    data = DetectionDataModule(
        root,
        batch_size=arguments.batch,
        num_workers=arguments.workers,
        augmentation=recipe if augmentation.startswith("yolox") else augmentation,
        image_cache=arguments.cache,
        bad_annotations="skip",
    )
    data.use_preprocess(yolox_preprocess((arguments.side, arguments.side)))
    loader = data.train_dataloader()
    passes = []
    for epoch in range(arguments.epochs):
        start, count = time.perf_counter(), 0
        for batch in loader:
            count += len(batch.images)
        passes.append(Loading(augmentation, epoch + 1, count / (time.perf_counter() - start)))
    return passes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how fast training images with boxes are loaded.")
    parser.add_argument("--images", type=int, default=128, help="training images that are generated (default 128)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data set with boxes to use instead")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each augmentation (default 3)")
    parser.add_argument("--epochs", type=int, default=2, help="passes in each turn (default 2)")
    parser.add_argument("--batch", type=int, default=8, help="images a batch (default 8)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default 0: this one)")
    parser.add_argument("--side", type=int, default=640, help="of the network input in pixels (default 640)")
    parser.add_argument("--cache", type=int, default=256, help="MiB of decoded images in each process (default 256)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    arguments = parser.parse_args()
    recipes = {
        "none": YOLOXAugmentation(),
        "default": YOLOXAugmentation(),
        "yolox-nano": YOLOXAugmentation.of_size("yolox-nano"),
        "yolox-s": YOLOXAugmentation.of_size("yolox-s"),
    }
    passes: list[Loading] = []
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.data or write_boxes(Path(folder), arguments.images)
        for _ in range(arguments.rounds):
            for name, recipe in recipes.items():
                fixed = YOLOXAugmentation(**{**asdict(recipe), "multi_scale": None})
                passes += load(root, name, fixed, arguments)
    table = Table("augmentation", *(f"epoch {epoch + 1}, images/s" for epoch in range(arguments.epochs)), box=None)
    for name in recipes:
        speeds = [
            statistics.median(
                one.images_per_second for one in passes if (one.augmentation, one.epoch) == (name, epoch + 1)
            )
            for epoch in range(arguments.epochs)
        ]
        table.add_row(name, *(f"{speed:.1f}" for speed in speeds))
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(
        f"medians of {arguments.rounds} rounds at {arguments.side}, batch {arguments.batch}, {arguments.workers} "
        f"workers, {arguments.cache} MiB of cache, {torch.get_num_threads()} threads; torch {torch.__version__}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in passes], indent=1) + "\n")


if __name__ == "__main__":
    main()
