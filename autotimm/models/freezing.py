"""A backbone that is not trained, for the whole training or for its first epochs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from autotimm.runtime.errors import ConfigError


class FrozenBackbone:
    """Whether the backbone of a network is frozen, and until when.

    Args:
        frozen: from the beginning.
        until: the epoch (the first is 0) from which it is trained after all; ``None`` for never.
    """

    def __init__(self, frozen: bool, until: int | None) -> None:
        if until is not None and not frozen:
            raise ConfigError("unfreeze_epoch is for a frozen backbone: give freeze_backbone=True with it")
        if until is not None and until < 1:
            raise ConfigError(f"unfreeze_epoch is {until}, but must be at least 1, counted from 0")
        self.is_frozen = frozen
        self.until = until
        """``None`` during a search for a learning rate, which is about the first phase."""

    def freeze(self, network: nn.Module, classifiers: Iterable[nn.Module]) -> None:
        """Exclude everything but the classifiers from training."""
        network.requires_grad_(False)
        for classifier in classifiers:
            classifier.requires_grad_(True)
        self.is_frozen = True

    def ends_by(self, epoch: int) -> bool:
        """Whether it is frozen now, but should not be in this epoch."""
        return self.is_frozen and self.until is not None and epoch >= self.until

    def unfreeze(self, network: nn.Module, trainer: pl.Trainer | None = None) -> None:
        """Train everything from here on.

        Args:
            network: what was frozen.
            trainer: of the training that is going on, whose optimizer has had the parameters from the beginning.
        """
        network.requires_grad_(True)
        self.is_frozen = False
        if trainer is not None and isinstance(trainer.strategy, DDPStrategy):
            # torch's DDP exchanges the gradients of those parameters only that were trained when it was made
            strategy: Any = trainer.strategy
            strategy.model = strategy.lightning_module
            strategy.configure_ddp()

    def check(self, trainer: pl.Trainer) -> None:
        """Refuse a strategy that cannot take on parameters in the middle of a training; warn of one that never does.

        Raises:
            ConfigError: neither one device nor DDP.
        """
        limit = trainer.max_epochs
        if self.until is not None and limit is not None and 0 <= limit <= self.until:
            warnings.warn(
                f"unfreeze_epoch is {self.until} and max_epochs {limit}: the backbone stays frozen throughout",
                UserWarning,
                stacklevel=2,
            )
        if self.until is not None and not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = type(trainer.strategy).__name__
            raise ConfigError(
                f"unfreeze_epoch works on one device and with DDP, not with {name}: train twice, the second time with "
                "freeze_backbone=False from the first one's checkpoint"
            )
