"""``AutoTrainer``: a ``pl.Trainer`` whose defaults suit the models of this package."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, ProgressBar, WeightAveraging
from pytorch_lightning.trainer.states import TrainerStatus
from rich.console import Console

from autotimm.data.module import VisionDataModule
from autotimm.described import mode_of
from autotimm.models.checkpoint import read_checkpoint
from autotimm.models.seeding import seed_everything
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.files import replacing
from autotimm.training.checkpointing import BestAndLastCheckpoint, KnownMonitor
from autotimm.training.ema import ExponentialMovingAverage, check_averaging
from autotimm.training.exact_resume import ExactResume
from autotimm.training.interruption import StopBetweenSteps, keeping_sigint
from autotimm.training.loggers import logger_configs
from autotimm.training.progress import EpochLines, TrainingBar
from autotimm.training.quiet import quiet
from autotimm.training.resuming import adopt_tuned, check_resumable, check_same_training
from autotimm.training.run_folder import RunFolder
from autotimm.training.summary import TrainingSummary
from autotimm.training.tuning import TunerConfig, tune

_HARDWARE: dict[str, Any] = {"accelerator": "auto", "devices": "auto", "precision": None}
"""Arguments of ``pl.Trainer`` that a search for a batch size must have too, and their defaults."""
LOG_EVERY = 50
"""Steps between two rows of the log: Lightning's default, lowered where an epoch is shorter."""


class AutoTrainer(pl.Trainer):
    """A ``pl.Trainer`` that keeps the best and the last checkpoint and a log in a folder of its own.

    Each :meth:`fit` makes a new folder ``default_root_dir/name``, ``name-2`` and so on, with ``checkpoints/best.ckpt``,
    ``checkpoints/last.ckpt`` and ``metrics.csv``. A training that is resumed goes on exactly as if it had never
    stopped: data, augmentation, dropout, optimizer, schedule, averages.

    Args:
        max_epochs: length of the training.
        name: of the run's folder.
        seed: of everything random in the training; not fixed where absent.
        tuner_config: look for a learning rate and a batch size first: a :class:`TunerConfig`, its fields as a mapping,
            or ``True``.
        ema_decay: average the weights with this decay, such as 0.9998; the average is validated, kept and exported.
            ``auto`` is what the recipe of the model says: 0.9998 for :class:`YOLOXDetector`, none for others. ``None``
            averages nothing.
        ema_warmup: optimizer steps over which the decay rises to 63 % of that.
        checkpoint_monitor: the metric that says which checkpoint is best. ``auto`` is the model's own
            (``val/accuracy``, ``val/map``), ``None`` the latest.
        checkpoint_mode: whether it should become large (``max``) or small (``min``). ``auto`` goes by its name: small
            where that has "loss", "error" or "distance" in it.
        early_stopping: stop after so many validations in which that metric has not improved.
        default_root_dir: where runs are kept.
        logger: ``True`` for the CSV log, ``False`` for none; a :class:`LoggerConfig`, its fields as a mapping, a
            backend's name, or a list of them; or Lightning's loggers.
        callbacks: further callbacks.
        enable_checkpointing: whether checkpoints are written.
        enable_progress_bar: whether a line is printed for each epoch, and on a terminal a bar.
        enable_model_summary: whether a table of the model's layers is printed.
        log_every_n_steps: steps between two rows of the log; fits the length of an epoch where absent.
        **kwargs: every other argument of ``pl.Trainer``.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = 10,
        name: str = "train",
        seed: int | None = None,
        tuner_config: TunerConfig | Mapping[str, Any] | bool | None = None,
        ema_decay: float | Literal["auto"] | None = "auto",
        ema_warmup: float = 2000.0,
        checkpoint_monitor: str | None = "auto",
        checkpoint_mode: Literal["auto", "min", "max"] = "auto",
        early_stopping: int | None = None,
        default_root_dir: str | Path = "runs",
        logger: Any = True,
        callbacks: list[Callback] | Callback | None = None,
        enable_checkpointing: bool = True,
        enable_progress_bar: bool = True,
        enable_model_summary: bool = False,
        log_every_n_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        if log_every_n_steps is None:
            given.append(_LogInterval())
        given.append(ExactResume())
        check_averaging(ema_decay, ema_warmup)
        if enable_progress_bar and sys.stderr.isatty() and not any(isinstance(one, ProgressBar) for one in given):
            given.append(TrainingBar())
        self._name, self._seed, self._monitor, self._patience = name, seed, checkpoint_monitor, early_stopping
        self._tuner = TunerConfig.of(tuner_config)
        self._ema_decay, self._ema_warmup = ema_decay, ema_warmup
        self._shows_progress = enable_progress_bar
        if checkpoint_mode not in ("auto", "min", "max"):
            raise ConfigError(f"checkpoint_mode is {checkpoint_mode!r}, but must be auto, min or max")
        self._mode = None if checkpoint_mode == "auto" else checkpoint_mode
        self._keeps_checkpoints = enable_checkpointing
        self._wanted_loggers, own_loggers = logger_configs(logger)
        self._is_trial = bool(kwargs.get("fast_dev_run"))
        self._hardware = {key: kwargs.get(key, default) for key, default in _HARDWARE.items()}
        self._of_this_run: list[Callback] = []
        self._seconds = 0.0
        self.callbacks: list[Callback]
        with quiet():
            super().__init__(
                max_epochs=max_epochs,
                default_root_dir=default_root_dir,
                logger=own_loggers,
                callbacks=given,
                # BestAndLastCheckpoint comes with fit(), which knows the model's metric
                enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in given),
                enable_progress_bar=any(isinstance(one, ProgressBar) for one in given),
                enable_model_summary=enable_model_summary,
                # one batch is certainly no more than an epoch has; _LogInterval raises it
                log_every_n_steps=1 if log_every_n_steps is None else log_every_n_steps,
                **kwargs,
            )

    def fit(  # type: ignore[override]
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool = True,
    ) -> None:
        """Train, in a new run folder.

        Args:
            model: what to train.
            train_dataloaders: loaders, or a data module.
            val_dataloaders: loaders.
            datamodule: instead of loaders.
            ckpt_path: a checkpoint of an earlier training to go on from. Its folder is left as it is.
            weights_only: refuse a ``ckpt_path`` that holds anything but tensors and plain data.

        Raises:
            CheckpointError: no such ``ckpt_path``, or not one of a training.
            ConfigError: ``ckpt_path`` has done all its epochs already, or there is nothing that can be tuned.
            DataError: the data cannot be used, or the loss is not a finite number.
            KeyboardInterrupt: the user stopped it; the message says what to go on from.
        """
        if self.max_epochs == 0 or self.max_steps == 0:
            raise ConfigError("max_epochs or max_steps is 0: there is nothing to train")
        if ckpt_path is not None:
            ckpt_path = self._existing(ckpt_path, model, datamodule)
        start = time.perf_counter()
        if self._tuner is not None and ckpt_path is None and not self._is_trial:
            self._tune(model, datamodule, self._tuner)
        if self._seed is not None:  # after the search, so that a training with what it found is this one
            seed_everything(self._seed)
        self._start_run(model)
        try:
            with quiet(), keeping_sigint():
                super().fit(model, train_dataloaders, val_dataloaders, datamodule, ckpt_path, weights_only)
        except SystemExit as stop:  # how Lightning ends after Ctrl-C
            if self.state.status != TrainerStatus.INTERRUPTED:
                raise
            has_last = self._keeps_checkpoints and not self._is_trial and self._checkpointing.last_model_path
            way = (
                f": go on with --resume {self.last_checkpoint}" if has_last else ", and there is nothing to go on from"
            )
            raise KeyboardInterrupt(f"the training was interrupted{way}") from stop
        finally:
            self._seconds = time.perf_counter() - start

    def save_checkpoint(self, filepath: Any, *arguments: Any, **options: Any) -> None:
        """Write a checkpoint; Lightning's method, but that a full disk leaves nothing half-written and is named.

        Raises:
            AutoTimmError: it could not be written.
        """
        if not self.is_global_zero or "://" in str(filepath):
            super().save_checkpoint(filepath, *arguments, **options)
            return
        with replacing(filepath) as temporary:
            super().save_checkpoint(temporary, *arguments, **options)

    def _existing(
        self, checkpoint: str | Path, model: pl.LightningModule, datamodule: pl.LightningDataModule | None
    ) -> str | Path:
        """The path of a checkpoint to go on from; ``best`` and ``last`` are those of this trainer's latest run."""
        if checkpoint in ("best", "last"):
            return self.best_checkpoint if checkpoint == "best" else self.last_checkpoint
        if "://" not in str(checkpoint):
            path = Path(checkpoint)
            content = check_resumable(path, self.max_epochs, averages=self._averages(model))
            if self._tuner is not None and isinstance(datamodule, VisionDataModule):
                adopt_tuned(content, model, datamodule, self.world_size)
            check_same_training(path, content, model.hparams)
        return checkpoint

    def _tune(self, model: pl.LightningModule, datamodule: pl.LightningDataModule | None, config: TunerConfig) -> None:
        if not isinstance(datamodule, VisionDataModule) or not hasattr(model, "lr"):
            raise ConfigError(
                "tuner_config needs one of AutoTimm's models and data modules: fit(model, datamodule=...)"
            )
        if self.world_size > 1:
            raise ConfigError(
                f"this trainer runs {self.world_size} processes, which would each find something else: tune with "
                "devices=1 first, and give lr and batch_size"
            )
        found = tune(model, datamodule, config, **self._hardware)
        if self._shows_progress and self.is_global_zero:
            settings = {"lr": found.lr, "batch_size": found.batch_size}
            told = ", ".join(f"{name} {value:g}" for name, value in settings.items() if value is not None)
            Console(stderr=True, highlight=False).print(f"tuned: {told}")

    def _start_run(self, model: pl.LightningModule) -> None:
        """Put the callbacks of a new run in place of the last run's."""
        others = [callback for callback in self.callbacks if callback not in self._of_this_run]
        self._of_this_run = []
        monitor = self._monitored(model)
        mode = self._mode or mode_of(monitor or "")
        checkpoints: BestAndLastCheckpoint | None = None
        decay = self._decay_for(model)
        if decay is not None and not _has_averaging(others):
            self._of_this_run.append(ExponentialMovingAverage(decay, self._ema_warmup))
        if not self._is_trial:
            checkpoints = BestAndLastCheckpoint(monitor, mode) if self._keeps_checkpoints else None
            self._of_this_run.append(RunFolder(self.default_root_dir, self._name, checkpoints, self._wanted_loggers))
            if monitor is not None:
                self._of_this_run.append(KnownMonitor(monitor))
            if self._patience is not None:
                if monitor is None:
                    raise ConfigError("early_stopping needs a metric that is validated: give checkpoint_monitor")
                # whether the metric is there is for KnownMonitor to say
                self._of_this_run.append(EarlyStopping(monitor, patience=self._patience, mode=mode, strict=False))
            if checkpoints is not None:
                self._of_this_run += [StopBetweenSteps(checkpoints), checkpoints]
        if self._shows_progress:
            self._of_this_run.append(EpochLines(monitor, mode, checkpoints))
        # Lightning wants those that save to come last
        self.callbacks = sorted(
            [*others, *self._of_this_run], key=lambda callback: isinstance(callback, ModelCheckpoint)
        )

    def _decay_for(self, model: pl.LightningModule) -> float | None:
        """Of the average of this model's weights."""
        return getattr(model, "recipe_ema_decay", None) if self._ema_decay == "auto" else self._ema_decay

    def _averages(self, model: pl.LightningModule) -> bool:
        """Whether this model's weights are averaged: by ``ema_decay``, or by a callback of the user's."""
        own = [callback for callback in self.callbacks if callback not in self._of_this_run]
        return self._decay_for(model) is not None or _has_averaging(own)

    def _monitored(self, model: pl.LightningModule) -> str | None:
        if self.limit_val_batches == 0:
            return None
        return getattr(model, "monitor", None) if self._monitor == "auto" else self._monitor

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the best epoch so far.

        Raises:
            ConfigError: nothing has been saved.
        """
        return _saved(self._checkpointing.best_model_path, "best")

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last epoch.

        Raises:
            ConfigError: nothing has been saved.
        """
        checkpoints = self._checkpointing
        path = checkpoints.last_model_path
        if not path and checkpoints.best_model_path:  # Lightning's spawned processes only tell of the best one
            path = str(Path(checkpoints.best_model_path).with_name("last.ckpt"))
        return _saved(path, "last")

    @property
    def best_score(self) -> float | None:
        """The monitored metric of the best checkpoint; ``None`` where nothing is monitored."""
        score = self._checkpointing.best_model_score
        return None if score is None else float(score)

    @property
    def summary(self) -> TrainingSummary:
        """How the latest training ended.

        Raises:
            ConfigError: nothing has been saved.
        """
        checkpoints = self._checkpointing
        log = self.last_checkpoint.parents[1] / "metrics.csv"
        validated = bool(checkpoints.best_model_path)
        best_checkpoint = self.best_checkpoint if validated else self.last_checkpoint
        best, last = (read_checkpoint(path)["epoch"] + 1 for path in (best_checkpoint, self.last_checkpoint))
        return TrainingSummary(
            epochs=last,
            seconds=self._seconds,
            monitor=checkpoints.monitor,
            best_epoch=best if validated else None,
            best_score=self.best_score,
            best_checkpoint=best_checkpoint,
            last_checkpoint=self.last_checkpoint,
            log=log if log.is_file() else None,
        )

    @property
    def _checkpointing(self) -> BestAndLastCheckpoint:
        for callback in self._of_this_run:
            if isinstance(callback, BestAndLastCheckpoint):
                return callback
        raise ConfigError("this trainer has kept no checkpoint: it has not been fitted, or checkpointing is off")


class _LogInterval(Callback):
    """Set the interval of the log once the number of batches is known."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.log_every_n_steps = int(max(1, min(LOG_EVERY, trainer.num_training_batches)))  # type: ignore[attr-defined]


def _saved(path: str, which: str) -> Path:
    if not path:
        raise ConfigError(f"there is no {which} checkpoint yet: no epoch was finished")
    return Path(path)


def _has_averaging(callbacks: Sequence[Callback]) -> bool:
    return any(isinstance(callback, WeightAveraging) for callback in callbacks)
