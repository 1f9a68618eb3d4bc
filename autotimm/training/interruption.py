"""Ctrl-C between two steps instead of in the middle of one, so that the training can go on exactly there."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console

from autotimm.training.checkpointing import BestAndLastCheckpoint


class StopBetweenSteps(Callback):
    """Answer the first Ctrl-C by ending the step, or the validation, and writing ``last.ckpt``; the second at once.

    With several processes each has its own Ctrl-C, and they could not agree on a step: there it stops at once, and
    ``last.ckpt`` is that of the last whole epoch.

    Args:
        checkpoints: what writes ``last.ckpt``.
    """

    def __init__(self, checkpoints: BestAndLastCheckpoint) -> None:
        self.checkpoints = checkpoints
        self._asked = False
        self._before: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook: answer SIGINT here. Only the main thread of a process can."""
        self._asked = self.checkpoints.stops_after_epoch = False
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = self.checkpoints.stops_after_epoch = True
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print("stopping after this step (in a validation: after it); Ctrl-C once more stops at once")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook, after the optimizer's step."""
        if self._asked and _is_between_steps(trainer, batch_idx + 1):
            self.checkpoints.write_last(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook."""
        self._give_back()

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def __getstate__(self) -> dict[str, Any]:
        """For processes that are spawned: a signal handler stays where it is."""
        return {**self.__dict__, "_before": None}


def _is_between_steps(trainer: pl.Trainer, batches: int) -> bool:
    """Whether the training can go on from here: no gradients are gathered, and no validation is due.

    The last batch of an epoch is followed by its validation, and then by the checkpoints of the epoch.
    """
    if trainer.is_last_batch or batches % trainer.accumulate_grad_batches:
        return False
    every = trainer.val_check_batch
    return every is None or every == math.inf or batches % int(every) != 0


@contextmanager
def keeping_sigint() -> Iterator[None]:
    """Give the answer to Ctrl-C back as it was; Lightning ignores it for good once it has ended a run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
