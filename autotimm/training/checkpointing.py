"""Keeping the best and the last checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from autotimm.runtime.errors import ConfigError


class BestAndLastCheckpoint(ModelCheckpoint):
    """``best.ckpt`` by one metric, and ``last.ckpt`` of the last epoch that was finished.

    Both hold everything that a resumed training needs, and load with ``torch.load(weights_only=True)``.

    Args:
        monitor: the logged metric; ``None`` makes ``best.ckpt`` the latest.
        mode: whether a larger (``max``) or smaller (``min``) value is better.
    """

    def __init__(self, monitor: str | None, mode: str) -> None:
        # Lightning's save_last only writes when the epoch is also the best so far: see on_train_epoch_end
        self.stops_after_epoch = False
        """Whether the user has asked to stop: :class:`~autotimm.training.interruption.StopBetweenSteps`."""
        super().__init__(filename="best", monitor=monitor, mode=mode, save_last=False, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best checkpoint of the resumed run over, where it lies; it is beaten or it stays the best.

        Lightning's own method forgets it, with a warning, since each run has a folder of its own.
        """
        path, score = state_dict["best_model_path"], state_dict["best_model_score"]
        if score is None or not Path(path).is_file():
            return
        self.best_model_path = self.kth_best_model_path = path
        self.best_model_score = self.kth_value = score
        self.best_k_models = {path: score}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook: after each epoch, whether or not it was validated or is the best."""
        super().on_train_epoch_end(trainer, pl_module)
        self.write_last(trainer)
        if self.stops_after_epoch:  # of all callbacks this is the last
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Ctrl-C before the first epoch is over: keep what there is. Later, ``last.ckpt`` is already there."""
        interrupted = isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0
        # saving waits for all processes, some of which may be gone
        if interrupted and not self.last_model_path and trainer.world_size == 1:
            self.write_last(trainer)

    def write_last(self, trainer: pl.Trainer) -> None:
        """Write ``last.ckpt`` as things stand now."""
        assert self.dirpath is not None  # set up by now
        self.last_model_path = str(Path(self.dirpath) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path)


class KnownMonitor(Callback):
    """Stop after the first validation where the metric to watch is not among what is measured.

    Args:
        monitor: its name.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        if trainer.sanity_checking or not self.monitor.startswith("val/"):  # others may come with the end of the epoch
            return
        if self.monitor not in trainer.callback_metrics:
            measured = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise ConfigError.unknown("metric to watch,", self.monitor, measured)
