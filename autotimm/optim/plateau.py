"""A learning rate that falls where a metric has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from autotimm.runtime.errors import ConfigError


class Plateau(LRScheduler):
    """A linear warm-up by optimizer steps, and torch's ``ReduceLROnPlateau`` by validations.

    It is told of a validation by :meth:`observe`, and not by Lightning's way of stepping such schedules, which leaves
    out the validation of a checkpoint's own epoch when a training is resumed.

    Args:
        optimizer: whose learning rates are reached by the warm-up.
        monitor: name of the metric, such as ``val/accuracy``.
        warmup_steps: optimizer steps of the warm-up.
        **options: of ``ReduceLROnPlateau``; ``min_lr`` is that of the fastest parameters.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, monitor: str, warmup_steps: int, **options: Any) -> None:
        self.monitor, self.warmup_steps = monitor, warmup_steps
        self._peak = max(group["lr"] for group in optimizer.param_groups)
        # it judges a learning rate of its own, whose share of the peak counts for all groups
        judged = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self._peak)
        self._judge = ReduceLROnPlateau(judged, **options)
        super().__init__(optimizer)

    @property
    def reduction(self) -> float:
        """The factor on the learning rate that has come of the validations so far."""
        return float(self._judge.optimizer.param_groups[0]["lr"] / self._peak)

    def get_lr(self) -> list[Any]:
        """Torch's hook: the learning rate of each group after ``last_epoch`` optimizer steps."""
        warm = min(1.0, (self.last_epoch + 1) / (self.warmup_steps + 1))
        return [base * warm * self.reduction for base in self.base_lrs]

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take a validation into account.

        Raises:
            ConfigError: it has not measured the metric that this schedule watches.
        """
        if self.monitor not in metrics:
            raise ConfigError.unknown("metric for scheduler plateau to watch,", self.monitor, metrics)
        self._judge.step(metrics[self.monitor])
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Torch's hook: plain numbers and text."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "judge": {name: value for name, value in self._judge.state_dict().items() if _is_plain(value)},
            "reduced_lr": self._judge.optimizer.param_groups[0]["lr"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Torch's hook."""
        self.last_epoch, self.base_lrs = state_dict["last_epoch"], list(state_dict["base_lrs"])
        self._judge.load_state_dict(state_dict["judge"])
        self._judge.optimizer.param_groups[0]["lr"] = state_dict["reduced_lr"]
        self._last_lr = self.get_lr()


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str) or value is None
