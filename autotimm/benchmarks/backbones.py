"""Backbones from creation to a verified artifact: ``python -m autotimm.benchmarks.backbones [NAME ...]``.

Each starts from random weights and goes through one forward pass, one training step by ``AutoTrainer``, its
checkpoint, the reload of that, export to ONNX and the verification of the artifact. Exits 1 if any of them fails.

Fresh weights are made to count first (:func:`enliven`): many networks start with branches that are multiplied by
nothing or almost nothing, and an artifact that computed them wrongly would still be equal.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from autotimm.benchmarks.image_folders import write_image_folder
from autotimm.data import ImageDataModule
from autotimm.export import export_to_onnx
from autotimm.models import BackboneConfig, ImageClassifier, TaskModel, count_parameters, load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.environment import installed_version
from autotimm.runtime.errors import AutoTimmError, one_line
from autotimm.runtime.images import list_images
from autotimm.runtime.results import Classification
from autotimm.training import AutoTrainer

BACKBONES = (
    "resnet18",
    "regnety_002",
    "densenet121",
    "hrnet_w18_small",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "ghostnet_100",
    "repvgg_a0",
    "mobileone_s0",
    "convnext_atto",
    "convnextv2_atto",
    "poolformer_s12",
    "mixer_s32_224",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "xcit_nano_12_p16_224",
    "maxvit_rmlp_pico_rw_256",
    "coatnet_nano_rw_224",
    "mobilevit_xs",
    "efficientformer_l1",
    "fastvit_t8",
    "edgenext_xx_small",
)
"""Small ones of different families."""
CLASSES, BATCH = 4, 4
SIZE = (240, 320)
"""Height and width of the pictures."""
TINY = 1e-3
"""Parameters that are no larger anywhere are drawn anew."""
LEAST_SPREAD = 1e-3
"""So much must a probability differ between two pictures for their comparison to mean anything."""
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
    """Largest difference between artifact and reloaded model: relative, of a probability; in pixels, of a box."""
    spread: float = 0.0
    """Largest difference of a probability between two pictures, in the reloaded model."""
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
            f"{self.spread:.3f}",
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


def walk(name: str, images: Path, folder: Path) -> Walked:
    """Take one backbone through all steps; a step that fails ends it.

    Args:
        name: of timm.
        images: an image folder of ``CLASSES`` classes.
        folder: an empty one, for the run and the artifact.
    """
    start = time.perf_counter()
    try:
        return _walk(name, images, folder, start)
    except StepError as failure:
        return Walked(name, time.perf_counter() - start, str(failure))


def _walk(name: str, images: Path, folder: Path, start: float) -> Walked:
    with step("creation"):
        model = ImageClassifier(BackboneConfig(name, pretrained=False), CLASSES, lr=1e-4, seed=0)
    height, width = model.preprocess.size
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    with step("forward pass"):
        probabilities = model.eval().outputs_as_arrays(pixels)["probabilities"]
        if probabilities.shape != (2, CLASSES) or not np.isfinite(probabilities).all():
            raise AutoTimmError(f"it gave {probabilities.tolist()} for two images")
    enliven(model.network)
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
        trainer.fit(model, datamodule=ImageDataModule(images, batch_size=BATCH, num_workers=0))
        if not any((old != new).any() for old, new in zip(before, model.parameters(), strict=True)):
            raise AutoTimmError("it changed no parameter")
    with step("reload"):
        restored = load_checkpoint(trainer.last_checkpoint)
        answers = [one.eval().outputs_as_arrays(pixels)["probabilities"] for one in (model, restored)]
        if not (answers[0] == answers[1]).all():
            raise AutoTimmError("the reloaded checkpoint gives other answers")
        spread = spread_of(restored, images / "val")
        if spread < LEAST_SPREAD:
            raise AutoTimmError(
                f"all pictures get the same answer, to {spread:.1e}: verifying that would prove nothing"
            )
    with step("export and verification"):
        record = export_to_onnx(restored, folder / "model.onnx").verification
    return Walked(
        name,
        time.perf_counter() - start,
        million_parameters=count_parameters(model) / 1e6,
        size=(height, width),
        loss=float(trainer.callback_metrics["train/loss"]),
        worst=record.worst["relative_probability"],
        spread=spread,
        images=record.images,
        megabytes=(folder / "model.onnx").stat().st_size / 1e6,
    )


def enliven(network: nn.Module) -> None:
    """Draw what starts at zero or next to it, and let batch norm take the statistics of the next batch as they are.

    Such are the layer scales of ConvNeXt and its kin (1e-6), the last norms of a ResNet's blocks, and most biases.
    """
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.abs().max() > TINY:
                continue
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.uniform_(0.5, 1.0, generator=random)
            else:
                parameter.normal_(std=0.1, generator=random)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0


def spread_of(model: TaskModel, folder: Path) -> float:
    """The largest difference of a probability between two of the pictures in a folder."""
    results = predictor_of(model).predict(list_images(folder, recursive=True))
    rows = [result.probabilities for result in results if isinstance(result, Classification)]
    return float(np.ptp(np.stack(rows), axis=0).max())


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


def main() -> None:
    """Walk through the backbones."""
    parser = argparse.ArgumentParser(description="Take backbones from creation to a verified artifact.")
    parser.add_argument("names", nargs="*", default=BACKBONES, help="timm backbones (a choice of families if absent)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file")
    arguments = parser.parse_args()
    console = Console(highlight=False, markup=False, width=200)
    rows: list[Walked] = []
    with tempfile.TemporaryDirectory() as images:
        write_image_folder(Path(images), classes=CLASSES, train=BATCH, val=BATCH, size=SIZE)
        for name in arguments.names:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(walk(name, Path(images), Path(folder)))
            console.print(f"{name}: {rows[-1].failure or 'verified'} ({rows[-1].seconds:.0f} s)")
    table = as_markdown(rows)
    console.print(table, soft_wrap=True)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")
    sys.exit(any(row.failure for row in rows))


if __name__ == "__main__":
    main()
