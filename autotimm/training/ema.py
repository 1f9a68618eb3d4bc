"""An exponential moving average of the weights, which is what is validated, kept and exported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from autotimm.runtime.errors import ConfigError

CURRENT_WEIGHTS = "current_model_state"
"""Key of Lightning's checkpoints under which the weights that are trained lie beside the averaged ones."""


class ExponentialMovingAverage(WeightAveraging):
    """Average weights and batch-norm statistics after each optimizer step, with a decay that rises from nothing.

    After u updates it is ``decay * (1 - exp(-u / warmup))``, as in the official YOLOX (``ModelEMA``), so that a short
    training is not held back by where it began. Validation and checkpoints (``state_dict``) see the average; the
    weights that are trained lie beside it for resuming. After training the model holds the average.

    Args:
        decay: of the average, in the long run.
        warmup: updates after which the decay has come to 63 % of that.
    """

    def __init__(self, decay: float, warmup: float) -> None:
        check_averaging(decay, warmup)
        self.decay, self.warmup = decay, warmup
        self._is_swapped = False
        super().__init__(multi_avg_fn=self._update)

    def decay_after(self, updates: int) -> float:
        """The decay of the update with this number, counted from 1."""
        return self.decay * (1.0 - math.exp(-updates / self.warmup))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook: the average begins as a copy of the weights."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and self._average_model is not None:
            # torch's AveragedModel copies at its first update, numbered 0; official YOLOX averages from number 1 on
            self._average_model.n_averaged.fill_(1)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook: what failed or was interrupted may be a validation, which has the average in the model."""
        if self._is_swapped:
            self._swap_models(pl_module)

    def _update(self, averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        decay = self.decay_after(int(updates))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(current), 1.0 - decay)
        else:  # counters, such as batch norm's
            for average, value in zip(averages, current, strict=True):
                average.copy_(value)


def check_averaging(decay: float | str | None, warmup: float) -> None:
    """Refuse what cannot be the ``ema_decay`` and ``ema_warmup`` of a trainer.

    Raises:
        ConfigError: saying what can be.
    """
    if decay not in (None, "auto") and (isinstance(decay, str) or not 0.0 < decay < 1.0):
        raise ConfigError(f"ema_decay is {decay!r}, but must be between 0 and 1, auto, or None")
    if warmup <= 0:
        raise ConfigError(f"ema_warmup is {warmup}, but must be a positive number of steps")


def averages_weights(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint is one of a training with averaged weights."""
    return CURRENT_WEIGHTS in checkpoint
