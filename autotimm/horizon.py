"""How long a training is, and a recipe of several parts fitted to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytorch_lightning as pl

from autotimm.runtime.errors import ConfigError


@dataclass(frozen=True)
class Horizon:
    """How long the training is."""

    total_steps: int
    steps_per_epoch: float

    @property
    def epochs(self) -> float:
        """Number of epochs."""
        return self.total_steps / self.steps_per_epoch


def horizon_of(trainer: pl.Trainer) -> Horizon:
    """Optimizer steps in all and per epoch, from the trainer's limits and the length of its data.

    Raises:
        ConfigError: the training has no end.
    """
    total = trainer.estimated_stepping_batches
    if total == math.inf:
        raise ConfigError("a schedule needs to know how long the training is: give max_epochs or max_steps")
    if trainer.num_training_batches == math.inf:  # with max_steps Lightning has not looked at the data yet
        trainer.fit_loop.setup_data()
    batches = float(trainer.num_training_batches)
    if batches == math.inf:
        raise ConfigError("a schedule goes by epochs, and this data has no length: give limit_train_batches")
    return Horizon(max(1, int(total)), max(1.0, math.ceil(batches / trainer.accumulate_grad_batches)))


@dataclass(frozen=True)
class RecipeLengths:
    """The official YOLOX recipe, in epochs that need not be whole."""

    total: float
    warmup: float
    """At its beginning, of rising learning rate."""
    no_aug: float
    """At its end, of flat learning rate, with the L1 loss and without composed images."""

    def fitted_to(self, epochs: float) -> RecipeLengths:
        """This recipe for a training of so many epochs.

        A longer training is longer in its middle; a shorter one is shorter in all its parts, in proportion.
        """
        scale = min(1.0, epochs / self.total)
        return RecipeLengths(epochs, self.warmup * scale, self.no_aug * scale)

    def in_training(self, trainer: pl.Trainer) -> RecipeLengths:
        """This recipe for the training of a trainer, which has seen its data; an endless one keeps to it as it is."""
        endless = trainer.estimated_stepping_batches == math.inf
        return self if endless else self.fitted_to(horizon_of(trainer).epochs)

    @property
    def plain_from(self) -> float:
        """The epoch from which the last part goes."""
        return self.total - self.no_aug
