"""Models on a backbone that can be frozen, be unfrozen within a training, or learn at a rate of its own."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from autotimm.models.freezing import FrozenBackbone
from autotimm.models.task import TaskModel
from autotimm.runtime.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self


class FreezableModel(TaskModel):
    """What :class:`FrozenBackbone` needs of Lightning's hooks. Subclasses call :meth:`set_up_backbone` once."""

    freezing: FrozenBackbone
    backbone_lr_scale: float

    @abstractmethod
    def new_parts(self) -> tuple[nn.Module, ...]:
        """What is trained while the backbone is frozen: everything that is not the backbone."""

    def set_up_backbone(self, *, frozen: bool, unfreeze_epoch: int | None, lr_scale: float) -> None:
        """Freeze the backbone of :attr:`network`, or give it a rate of its own.

        Args:
            frozen: from the beginning.
            unfreeze_epoch: the epoch (the first is 0) from which it is trained after all; ``None`` for never.
            lr_scale: factor on its learning rate.

        Raises:
            ConfigError: out of range.
        """
        if lr_scale <= 0:
            raise ConfigError(f"backbone_lr_scale is {lr_scale}, but must be positive; see freeze_backbone")
        self.backbone_lr_scale = lr_scale
        self.freezing = FrozenBackbone(frozen, unfreeze_epoch)
        if frozen:
            self.freezing.freeze(self.network, self.new_parts())

    def on_fit_start(self) -> None:
        """Lightning's hook."""
        super().on_fit_start()
        if self.freezing.until is not None and not self.freezing.is_frozen:  # an earlier training has ended with it
            self.freezing.freeze(self.network, self.new_parts())
            self.train()
        self.freezing.check(self.trainer)

    def on_train_start(self) -> None:
        """Lightning's hook; a run that is resumed within an epoch has no start of that epoch."""
        self._unfreeze_in_time()

    def on_train_epoch_start(self) -> None:
        """Lightning's hook."""
        self._unfreeze_in_time()

    def _unfreeze_in_time(self) -> None:
        if self.freezing.ends_by(self.current_epoch):
            self.freezing.unfreeze(self.network, self.trainer)
            self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen backbone stays in evaluation mode, so that its batch norm does not drift."""
        super().train(mode)
        if mode and self.freezing.is_frozen:
            self.network.eval()
            for part in self.new_parts():
                part.train()
        return self

    @property
    def trains_frozen_later(self) -> bool:
        """Whether the backbone is frozen for the first epochs only."""
        return self.freezing.until is not None

    def learning_rate_scales(self) -> dict[str, float]:
        """The backbone's own rate."""
        if self.backbone_lr_scale == 1.0:
            return {}
        names = {id(module): name for name, module in self.named_modules()}
        return {"network.": self.backbone_lr_scale, **{f"{names[id(part)]}.": 1.0 for part in self.new_parts()}}
