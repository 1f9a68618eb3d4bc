"""Training images a second, against a bare PyTorch loop: ``python -m autotimm.benchmarks.training_throughput``.

On one side ``ImageClassifier``, ``ImageDataModule`` and ``AutoTrainer`` as they come; on the other the loop that one
writes by hand: torchvision's ``ImageFolder`` and transforms, a ``DataLoader``, the same timm network, cross-entropy and
AdamW. Both read the same files with as many workers and threads, crop and flip them alike, and take as many steps of
the same batch in float32. They take turns step by step, since a machine's speed drifts from minute to minute. The first
steps of each round do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.data import ImageDataModule
from autotimm.data.transforms import CROP_AREA
from autotimm.models import BackboneConfig, ImageClassifier
from autotimm.training import AutoTrainer

BUDGET = 0.95
"""Of the bare loop's images a second."""
WARM_UP = 3
"""Steps of each round that do not count: workers start, and memory is allocated."""
CLASSES = 4
SIZE = (240, 320)
"""Height and width of the generated pictures."""


@dataclass(frozen=True)
class Setting:
    """What both sides do."""

    data: Path
    """An image folder."""
    classes: int
    backbone: str
    batch: int
    workers: int
    side: int
    """Of the square network input."""
    channels_last: bool = False
    """Whether the bare loop puts its batches into channels-last memory, as AutoTimm's are and few hand-written are."""


@dataclass(frozen=True)
class Round:
    """Seconds of each step, pair by pair."""

    bare: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Our images a second over the bare loop's: the median of the pairs after the warm-up.

        Raises:
            SystemExit: there are none.
        """
        pairs = list(zip(self.bare, self.ours, strict=True))[WARM_UP:]
        if not pairs:
            raise SystemExit(f"{len(self.bare)} steps are too few to time: give more --images, or a smaller --batch")
        return statistics.median(bare / ours for bare, ours in pairs)

    def images_per_second(self, batch: int) -> tuple[float, float]:
        """Medians of the bare loop and of ours."""
        return batch / statistics.median(self.bare[WARM_UP:]), batch / statistics.median(self.ours[WARM_UP:])


class Alternating(Callback):
    """After each training step, one of the bare loop; notes how long both take.

    What the trainer does between two steps, such as logging and fetching the next batch, counts as part of the next.
    """

    def __init__(self, other: Iterator[None]) -> None:
        self.other = other
        self.round = Round()

    def on_train_start(self, *_: Any) -> None:
        """Lightning's hook."""
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        """Lightning's hook."""
        now = time.perf_counter()
        next(self.other)
        then = time.perf_counter()
        self.round.ours.append(now - self._since)
        self.round.bare.append(then - now)
        self._since = time.perf_counter()


def bare_loop(setting: Setting) -> Iterator[None]:
    """The loop that one writes by hand, step by step through one epoch."""
    network: Any = timm.create_model(setting.backbone, num_classes=setting.classes)
    weights = network.pretrained_cfg
    crop = v2.RandomResizedCrop(
        setting.side, scale=CROP_AREA, interpolation=InterpolationMode(weights["interpolation"]), antialias=True
    )
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(weights["mean"], weights["std"])]
    data = ImageFolder(setting.data / "train", v2.Compose([crop, v2.RandomHorizontalFlip(), *to_tensor]))
    loader = DataLoader(data, setting.batch, shuffle=True, num_workers=setting.workers, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    network.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(network(images.contiguous(memory_format=layout)), labels)
        loss.backward()
        optimizer.step()
        yield


def measure(setting: Setting) -> Round:
    """One epoch of both, in turns."""
    alternating = Alternating(bare_loop(setting))
    model = ImageClassifier(BackboneConfig(setting.backbone, pretrained=False), setting.classes, seed=0)
    data = ImageDataModule(
        setting.data, image_size=setting.side, batch_size=setting.batch, num_workers=setting.workers, seed=0
    )
    with tempfile.TemporaryDirectory() as runs:
        trainer = AutoTrainer(
            max_epochs=1,
            seed=0,
            default_root_dir=runs,
            accelerator="cpu",
            callbacks=[alternating],
            limit_val_batches=0,
            enable_progress_bar=False,
        )
        trainer.fit(model, datamodule=data)
    return alternating.round


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure training images a second against a bare PyTorch loop.")
    parser.add_argument("--images", type=int, default=256, help="training images that are generated (default 256)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="an image folder to use instead, with train and val")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side (default 3)")
    parser.add_argument("--backbone", default="resnet18", help="of timm (default resnet18)")
    parser.add_argument("--batch", type=int, default=16, help="images a step (default 16)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default 0)")
    parser.add_argument("--side", type=int, default=224, help="of the network input in pixels (default 224)")
    parser.add_argument("--channels-last", action="store_true", help="give the bare loop channels-last batches as well")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = write_image_folder(Path(folder), classes=CLASSES, train=arguments.images, val=CLASSES, size=SIZE)
        setting = Setting(
            data,
            len(ImageFolder(data / "train").classes),
            arguments.backbone,
            arguments.batch,
            arguments.workers,
            arguments.side,
            arguments.channels_last,
        )
        rounds = [measure(setting) for _ in range(arguments.rounds)]
    ratio = statistics.median(one.ratio for one in rounds)
    table = Table("round", "bare loop, images/s", "AutoTrainer, images/s", "ratio, step by step", box=None)
    for index, one in enumerate(rounds, 1):
        bare, ours = one.images_per_second(setting.batch)
        table.add_row(str(index), f"{bare:.1f}", f"{ours:.1f}", f"{one.ratio:.3f}")
    console = Console(width=120, highlight=False)
    console.print(table)
    layout = "channels-last" if setting.channels_last else "its own memory layout"
    console.print(
        f"{setting.backbone} at {setting.side}, batch {setting.batch}, {setting.workers} workers, "
        f"{torch.get_num_threads()} threads; the bare loop with {layout}; "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    console.print(f"ratio {ratio:.3f}, budget {BUDGET}: {'kept' if ratio >= BUDGET else 'NOT KEPT'}")
    if arguments.json:
        content = {"ratio": ratio, "budget": BUDGET, "rounds": [asdict(one) for one in rounds]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(ratio < BUDGET)


if __name__ == "__main__":
    main()
