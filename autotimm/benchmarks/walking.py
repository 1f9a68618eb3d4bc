"""From the creation of a model to its verified artifact, step by step, for whatever task: what the tables of backbones
are made by.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from autotimm.data.module import VisionDataModule
from autotimm.export import export_to_onnx
from autotimm.export.graph.folding import tensors_of
from autotimm.models import TaskModel, count_parameters, load_checkpoint
from autotimm.runtime.environment import installed_version
from autotimm.runtime.errors import AutoTimmError, one_line
from autotimm.runtime.manifest import Verification
from autotimm.training import AutoTrainer

LIBRARIES = ("timm", "torch", "pytorch-lightning", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Walked:
    """How far a backbone came."""

    name: str
    seconds: float
    failure: str = ""
    """The step that failed, and why."""
    million_parameters: float = 0.0
    size: tuple[int, int] = (0, 0)
    """Height and width of the network input."""
    loss: float = 0.0
    """Of the training step, before it."""
    worst: float = 0.0
    """Largest difference between artifact and reloaded model: relative, of a probability or a logit; in pixels, of a
    box."""
    spread: float | None = None
    """How much the answers of the reloaded model differ, where that is known."""
    images: int = 0
    """So many were compared."""
    megabytes: float = 0.0
    """Of the artifact."""

    @property
    def cells(self) -> tuple[str, ...]:
        """One row of the table."""
        if self.failure:
            return (self.name, "", "", "", f"**{self.failure.replace('|', '/')}**", "", "", "", f"{self.seconds:.0f}")
        return (
            self.name,
            f"{self.million_parameters:.1f}",
            "{}x{}".format(*self.size),
            f"{self.loss:.2f}",
            f"verified on {self.images} images",
            "" if self.spread is None else f"{self.spread:.2g}",
            f"{self.worst:.1e}",
            f"{self.megabytes:.1f}",
            f"{self.seconds:.0f}",
        )


HEADER = (
    "backbone",
    "million parameters",
    "input",
    "loss of the step",
    "artifact",
    "spread",
    "worst difference",
    "MB",
    "seconds",
)


@dataclass(frozen=True)
class Walk:
    """What differs from task to task."""

    create: Callable[[], TaskModel]
    """An untrained model."""
    data: Callable[[tuple[int, int]], VisionDataModule]
    """What it takes its training step on, at this size."""
    worst: Callable[[Verification], float]
    """The difference that the table shows."""
    size: Callable[[TaskModel], tuple[int, int]] = lambda model: model.preprocess.size
    """Height and width of the network input."""
    before_training: Callable[[TaskModel], None] = lambda model: None
    """Changes that make its weights count."""
    before_export: Callable[[TaskModel], float | None] = lambda model: None
    """Changes that make its answers differ; tells by how much they do, where that is measured.

    It refuses what is not worth comparing.
    """


def walk_through(name: str, walk: Walk, folder: Path) -> Walked:
    """Take a model through all steps; a step that fails ends it.

    Args:
        name: by which the table knows it.
        walk: its task.
        folder: an empty one, for the run and the artifact.
    """
    start = time.perf_counter()
    try:
        return _walk_through(name, walk, folder, start)
    except StepError as failure:
        return Walked(name, time.perf_counter() - start, str(failure))


def _walk_through(name: str, walk: Walk, folder: Path, start: float) -> Walked:
    with step("creation"):
        model = walk.create()
        height, width = walk.size(model)
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    with step("forward pass"), torch.no_grad():
        if not all(torch.isfinite(part).all() for part in tensors_of(model.eval()(model.normalize(pixels)))):
            raise AutoTimmError("its answers are not finite numbers")
    walk.before_training(model)
    with step("training step"):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        trainer = AutoTrainer(
            max_epochs=1,
            limit_train_batches=1,
            seed=0,
            default_root_dir=folder,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        trainer.fit(model, datamodule=walk.data((height, width)))
        if not any((old != new).any() for old, new in zip(before, model.parameters(), strict=True)):
            raise AutoTimmError("it changed no parameter")
    with step("reload"):
        restored = load_checkpoint(trainer.last_checkpoint)
        ours, theirs = (one.eval().outputs_as_arrays(pixels) for one in (model, restored))
        if not all((ours[output] == theirs[output]).all() for output in ours):
            raise AutoTimmError("the reloaded checkpoint gives other answers")
    with step("export and verification"):
        spread = walk.before_export(restored)
        record = export_to_onnx(restored, folder / "model.onnx").verification
    return Walked(
        name,
        time.perf_counter() - start,
        million_parameters=count_parameters(model) / 1e6,
        size=(height, width),
        loss=float(trainer.callback_metrics["train/loss"]),
        worst=walk.worst(record),
        spread=spread,
        images=record.images,
        megabytes=(folder / "model.onnx").stat().st_size / 1e6,
    )


class StepError(Exception):
    """A step of the walk did not work."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Name the step in whatever goes wrong within it."""
    try:
        yield
    except Exception as error:  # of timm, of torch's exporter: the table is to say which step, and go on
        raise StepError(f"{what} failed: {one_line(error)[:200]}") from error


def as_markdown(rows: Sequence[Walked], header: Sequence[str] = HEADER) -> str:
    """The results as a table, with the versions that they belong to."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row.cells)} |" for row in rows]
    versions = ", ".join(f"{library} {installed_version(library)}" for library in LIBRARIES)
    works = sum(not row.failure for row in rows)
    seconds = sum(row.seconds for row in rows)
    lines += [
        "",
        f"{works} of {len(rows)} in {seconds:.0f} seconds; {torch.get_num_threads()} threads of torch; "
        f"Python {platform.python_version()}, {versions}.",
    ]
    return "\n".join(lines) + "\n"


def command(description: str, backbones: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of a table of backbones; :func:`run` takes what it gives."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", default=backbones, help="timm backbones (a choice of families if absent)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file")
    return parser


def run(
    arguments: argparse.Namespace,
    write_data: Callable[[Path], object],
    walk: Callable[[str, Path, Path], Walked],
    header: Sequence[str] = HEADER,
) -> None:
    """Walk through the backbones, show the table, and exit: with 1 if any failed.

    Args:
        arguments: of :func:`command`.
        write_data: puts what they are trained on into an empty folder.
        walk: takes one of them, by its name, the folder of the data and an empty one, through all steps.
        header: of the table.
    """
    console = Console(highlight=False, markup=False, width=200)
    rows: list[Walked] = []
    with tempfile.TemporaryDirectory() as data:
        write_data(Path(data))
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(walk(name, Path(data), Path(folder)))
            console.print(f"{name}: {rows[-1].failure or 'verified'} ({rows[-1].seconds:.0f} s)")
    table = as_markdown(rows, header)
    console.print(table, soft_wrap=True)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")
    sys.exit(any(row.failure for row in rows))
