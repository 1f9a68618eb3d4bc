"""What a person sees of a training: a bar on a terminal, and one line for each epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sized
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from rich.console import Console
from rich.text import Text
from torch import Tensor


class TrainingBar(RichProgressBar):
    """Lightning's rich bar on standard error, with epochs counted from 1."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4, console_kwargs={"stderr": True})

    def _get_train_description(self, current_epoch: int) -> str:
        limit = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{limit}" if limit is not None and limit > 0 else "")


class EpochLines(Callback):
    """One line on standard error after each epoch: mean loss, validation loss, the metric of the best, the time.

    Args:
        monitor: the name of that metric, if there is one.
        mode: whether a larger (``max``) or smaller (``min``) value of it is better.
        checkpoints: what knows the best of a training that is resumed.
    """

    def __init__(self, monitor: str | None, mode: str, checkpoints: ModelCheckpoint | None = None) -> None:
        self.monitor, self.mode, self.checkpoints = monitor, mode, checkpoints
        self._best: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        if trainer.is_global_zero:
            _console(trainer).print(_data_line(trainer, pl_module))
        score = None if self.checkpoints is None else self.checkpoints.best_model_score
        self._best = None if score is None else float(score)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self._start = time.perf_counter()
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook. The losses stay on their device until the epoch is over."""
        if isinstance(outputs, Mapping) and hasattr(self, "_losses"):
            # Lightning has divided it by the number of batches that make a step
            self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook, after the validation of the epoch."""
        if not trainer.is_global_zero:
            return
        limit = trainer.max_epochs
        epoch = f"epoch {trainer.current_epoch + 1}" + (f"/{limit}" if limit is not None and limit > 0 else "")
        values: dict[str, float] = {}
        if getattr(self, "_losses", None):
            values["mean train/loss"] = float(torch.stack(self._losses).mean())
        for name in dict.fromkeys(("val/loss", self.monitor)):
            if name in trainer.callback_metrics:
                values[str(name)] = float(trainer.callback_metrics[name])
        line = Text.assemble((epoch, "bold"), *(f"  {name} {value:.4f}" for name, value in values.items()))
        if self.monitor in values and self._improved(values[str(self.monitor)]):
            line.append("  best so far", "green")
        if hasattr(self, "_start"):  # a run that is resumed within an epoch has no start of that epoch
            line.append(f"  {time.perf_counter() - self._start:.0f} s", "dim")
        _console(trainer).print(line)

    def _improved(self, value: float) -> bool:
        if self._best is not None and (value <= self._best if self.mode == "max" else value >= self._best):
            return False
        self._best = value
        return True


def _data_line(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Text:
    """What is trained on."""
    counts = []
    for loader, purpose in ((trainer.train_dataloader, "to train"), (trainer.val_dataloaders, "to validate")):
        dataset = getattr(loader, "dataset", None)
        if isinstance(dataset, Sized):
            counts.append(f"{len(dataset)} images {purpose}")
    names: Any = getattr(pl_module, "class_names", ())
    if names:
        counts.append(f"{len(names)} classes: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}")
    preprocess: Any = getattr(pl_module, "preprocess", None)
    if preprocess is not None:
        height, width = preprocess.size
        counts.append(f"{height}x{width}")
    return Text(", ".join(counts[:2]) + "".join(f"; {one}" for one in counts[2:]), "dim")


def _console(trainer: pl.Trainer) -> Console:
    """That of the bar, which has to move out of the way of a line."""
    bar = trainer.progress_bar_callback
    found = getattr(bar, "_console", None)
    return found or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
