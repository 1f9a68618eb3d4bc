"""Training images a second, against a bare PyTorch loop: ``python -m autotimm.benchmarks.training_throughput``.

On one side ``ImageClassifier``, ``ImageDataModule`` and ``AutoTrainer`` as they come; on the other the loop that one
writes by hand: torchvision's ``ImageFolder`` and transforms, a ``DataLoader``, the same timm network, cross-entropy and
AdamW. Both read the same files with as many workers and threads, crop and flip them alike, and take as many steps of
the same batch in float32. They take turns, and the first steps of each turn do not count.
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
WARM_UP = 4
"""Steps of each turn that do not count: the workers start, and memory is allocated."""
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


class StepClock(Callback):
    """Notes when each training step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Lightning's hook."""
        self.ends.append(time.perf_counter())


def ours(setting: Setting) -> list[float]:
    """The end of each step, in seconds, of one epoch by ``AutoTrainer``."""
    clock = StepClock()
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
            callbacks=[clock],
            limit_val_batches=0,
            enable_progress_bar=False,
        )
        trainer.fit(model, datamodule=data)
    return clock.ends


def bare(setting: Setting) -> list[float]:
    """The same of the loop that one writes by hand."""
    torch.manual_seed(0)
    network: Any = timm.create_model(setting.backbone, num_classes=setting.classes)
    settings = network.pretrained_cfg
    crop = v2.RandomResizedCrop(
        setting.side, scale=CROP_AREA, interpolation=InterpolationMode(settings["interpolation"]), antialias=True
    )
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings["mean"], settings["std"])]
    data = ImageFolder(setting.data / "train", v2.Compose([crop, v2.RandomHorizontalFlip(), *to_tensor]))
    loader = DataLoader(data, setting.batch, shuffle=True, num_workers=setting.workers, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()
    network.train()
    ends = []
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(network(images), labels)
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
    return ends


def images_per_second(ends: list[float], batch: int) -> float:
    """Of the steps after the warm-up.

    Raises:
        SystemExit: there are none.
    """
    if len(ends) < WARM_UP + 2:
        raise SystemExit(f"{len(ends)} steps are too few to time: give more --images, or a smaller --batch")
    return batch * (len(ends) - WARM_UP) / (ends[-1] - ends[WARM_UP - 1])


@dataclass(frozen=True)
class Turn:
    """Images a second of both sides, one after the other."""

    bare: float
    ours: float

    @property
    def ratio(self) -> float:
        """Ours over the bare loop's."""
        return self.ours / self.bare


def measure(setting: Setting, rounds: int) -> list[Turn]:
    """Let both sides take turns; each goes first every other time, on a machine whose speed may drift."""
    turns = []
    for index in range(rounds):
        ends = {}
        for side in (bare, ours) if index % 2 == 0 else (ours, bare):
            ends[side.__name__] = side(setting)
        if len(ends["bare"]) != len(ends["ours"]):
            raise SystemExit(f"{len(ends['bare'])} steps and {len(ends['ours'])}: the two sides do not do the same")
        turns.append(Turn(**{name: images_per_second(one, setting.batch) for name, one in ends.items()}))
    return turns


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure training images a second against a bare PyTorch loop.")
    parser.add_argument("--images", type=int, default=256, help="training images that are generated (default 256)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="an image folder to use instead, with train and val")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--backbone", default="resnet18", help="of timm (default resnet18)")
    parser.add_argument("--batch", type=int, default=16, help="images a step (default 16)")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode images (default 1)")
    parser.add_argument("--side", type=int, default=224, help="of the network input in pixels (default 224)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if data is None:
            data = write_image_folder(Path(folder), classes=CLASSES, train=arguments.images, val=CLASSES, size=SIZE)
        classes = len(ImageFolder(data / "train").classes)
        setting = Setting(data, classes, arguments.backbone, arguments.batch, arguments.workers, arguments.side)
        turns = measure(setting, arguments.rounds)
    ratio = statistics.median(turn.ratio for turn in turns)
    table = Table("round", "bare loop, images/s", "AutoTrainer, images/s", "ratio", box=None)
    for index, turn in enumerate(turns, 1):
        table.add_row(str(index), f"{turn.bare:.1f}", f"{turn.ours:.1f}", f"{turn.ratio:.3f}")
    medians = [statistics.median(getattr(turn, name) for turn in turns) for name in ("bare", "ours")]
    table.add_row("median", *(f"{value:.1f}" for value in medians), f"{ratio:.3f}")
    console = Console(width=120, highlight=False)
    console.print(table)
    console.print(
        f"{setting.backbone} at {setting.side}, batch {setting.batch}, {setting.workers} workers, "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    console.print(f"budget {BUDGET}: {'kept' if ratio >= BUDGET else 'NOT KEPT'}")
    if arguments.json:
        content = {"ratio": ratio, "budget": BUDGET, "turns": [asdict(turn) for turn in turns]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
