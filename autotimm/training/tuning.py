"""Finding a learning rate and a batch size before a training, by Lightning's tuner on a trainer of its own."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.tuner.tuning import Tuner

from autotimm.runtime.errors import ConfigError
from autotimm.training.interruption import keeping_sigint
from autotimm.training.quiet import quiet


@dataclass(frozen=True)
class TunerConfig:
    """What is looked for before a training begins."""

    auto_lr: bool = True
    """Raise the learning rate step by step over a short training, and take the one at which the loss falls fastest."""
    auto_batch_size: bool = True
    """Double the batch until it no longer fits into the device's memory, at the largest size that the training has. On
    a CPU nothing says so in time: there it needs ``max_batch_size``."""
    min_lr: float = 1e-6
    max_lr: float = 1.0
    lr_steps: int = 100
    """Optimizer steps of the search for the learning rate."""
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.min_lr < self.max_lr:
            raise ConfigError(f"the tuner's min_lr {self.min_lr} and max_lr {self.max_lr} must be positive, and rise")
        if self.lr_steps < 20:
            raise ConfigError(f"the tuner's lr_steps is {self.lr_steps}; fewer than 20 steps tell nothing")
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ConfigError(f"the tuner's max_batch_size is {self.max_batch_size}, but must be at least 1")

    @classmethod
    def of(cls, given: TunerConfig | Mapping[str, Any] | bool | None) -> TunerConfig | None:
        """The configuration that a user meant: itself, its fields from YAML, or ``True`` for the defaults.

        Raises:
            ConfigError: a field that is not there, or cannot have this value.
        """
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, bool):
            return cls() if given else None
        if not isinstance(given, Mapping):
            raise ConfigError(f"tuner_config is {given!r}, but must be a TunerConfig or its fields")
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError.unknown("setting of the tuner", str(name), known)
        try:
            return cls(**given)
        except TypeError as error:
            raise ConfigError(f"tuner_config: {error}") from error


@dataclass(frozen=True)
class Tuned:
    """What the tuner has set."""

    lr: float | None
    batch_size: int | None


def tune(model: Any, data: Any, config: TunerConfig, accelerator: Any, devices: Any, precision: Any) -> Tuned:
    """Set ``data.batch_size`` and ``model.lr`` to what the tuner finds; the weights stay as they are.

    Nothing else changes, and nothing is left behind, also where it is interrupted or fails.

    Args:
        model: a :class:`~autotimm.models.task.TaskModel`.
        data: its data module.
        config: what to look for.
        accelerator: as the training will have it.
        devices: the same; the search runs on the first of them.
        precision: the same.

    Raises:
        ConfigError: a search that is not possible here, or that found nothing.
        KeyboardInterrupt: the user stopped it.
    """
    weights = copy.deepcopy(model.state_dict())
    freezing = getattr(model, "freezing", None)
    until = getattr(freezing, "until", None)
    if freezing is not None:
        freezing.until = None  # the search may take more epochs than the first phase has
    lr, batch_size = model.lr, data.batch_size
    found_lr: float | None = None
    found_batch: int | None = None
    try:
        with quiet(), keeping_sigint(), tempfile.TemporaryDirectory() as folder:
            if config.auto_batch_size:
                trainer = _trainer(folder, accelerator, devices, precision)
                data.largest_batches = True  # those of the YOLOX recipe change in size
                found_batch = _find_batch_size(trainer, model, data, config)
                data.largest_batches = False
                data.batch_size = found_batch
                model.load_state_dict(weights)
            if config.auto_lr:
                model.checks_loss = False
                found_lr = _find_lr(_trainer(folder, accelerator, devices, precision), model, data, config)
                # a rule of the model (official YOLOX: lr is for 64 images) may stand between lr and the optimizer's
                found_lr *= model.lr / model.learning_rate()
                model.lr = found_lr
                model.hparams["lr"] = found_lr  # what a checkpoint records, and a resumed training goes on with
    except BaseException as error:
        model.lr, data.batch_size = lr, batch_size
        model.hparams["lr"] = lr
        if isinstance(error, SystemExit):  # how Lightning ends after Ctrl-C
            raise KeyboardInterrupt("the search was interrupted; nothing has been trained") from error
        raise
    finally:
        data.largest_batches = False
        model.checks_loss = True
        if freezing is not None:
            freezing.until = until
        model.load_state_dict(weights)
    return Tuned(found_lr, found_batch)


def _trainer(folder: str, accelerator: Any, devices: Any, precision: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator=accelerator,
        devices=1 if isinstance(devices, int | str) else devices[:1],
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=1_000_000,  # never
        max_epochs=1000,  # more than a search takes; a schedule wants an end
    )


def _find_batch_size(trainer: pl.Trainer, model: Any, data: Any, config: TunerConfig) -> int:
    if config.max_batch_size is None and isinstance(trainer.accelerator, CPUAccelerator):
        raise ConfigError(
            "auto_batch_size tries what fits into a GPU's memory; on a CPU it would try until the system kills it: "
            "give the tuner a max_batch_size, or auto_batch_size=False"
        )
    limit = config.max_batch_size or 8192
    found = Tuner(trainer).scale_batch_size(model, datamodule=data, mode="power", steps_per_trial=2, max_val=limit)
    if not found:
        raise ConfigError("the tuner found no batch size that fits; give batch_size")
    return min(int(found), limit)


def _find_lr(trainer: pl.Trainer, model: Any, data: Any, config: TunerConfig) -> float:
    finder = Tuner(trainer).lr_find(
        model,
        datamodule=data,
        min_lr=config.min_lr,
        max_lr=config.max_lr,
        num_training=config.lr_steps,
        update_attr=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered `nan` values")  # past where the loss diverged
        suggestion = finder.suggestion() if finder is not None else None
    if suggestion is None:
        raise ConfigError("the tuner found no learning rate at which the loss falls; give lr, or more lr_steps")
    return float(suggestion)
