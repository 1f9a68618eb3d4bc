"""The metrics that a user configured, beside a task's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from autotimm.metrics.config import MetricConfig
from autotimm.metrics.gathering import several_processes
from autotimm.metrics.lookup import build_configured
from autotimm.runtime.errors import ConfigError, one_line

Inputs = tuple[Any, Any]
"""Predictions and truths as torchmetrics takes them."""


class ConfiguredMetrics:
    """Further metrics, each with whatever it needs to see.

    In one process they see batch after batch. Where several processes share the data, those that know how to add up
    what each has counted still do. The others (curves, which keep all they see, and custom classes that know of no
    processes) are given everything at the end, so their figures are those of one process.

    Args:
        configs: which.
        class_names: of the entries of a vector.
        known: arguments that follow from the task, for classes that take them.
        taken: names of the task's own metrics.

    Raises:
        ConfigError: a metric cannot be made, or does not have a name of its own.
    """

    def __init__(
        self,
        configs: Sequence[MetricConfig],
        class_names: Sequence[str],
        known: Mapping[str, Any],
        *,
        taken: Collection[str] = (),
    ) -> None:
        names = [config.name for config in configs]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two metrics have the name {name!r}; give each one of its own")
            if name in taken or name == "loss":
                raise ConfigError(f"the name {name!r} is that of a metric which is always there; give it another")
        self._metrics = [_Configured(config, tuple(class_names), known) for config in configs]

    @property
    def need_everything(self) -> bool:
        """Whether :meth:`compute` will ask for all predictions and truths of all processes."""
        return any(metric.needs_everything for metric in self._metrics)

    def to(self, device: torch.device | str) -> None:
        """Count on this device."""
        for metric in self._metrics:
            metric.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        for metric in self._metrics:
            metric.reset()

    def update(self, predictions: Any, truths: Any) -> None:
        """Add what is known of some images.

        Raises:
            ConfigError: a metric does not take it.
        """
        for metric in self._metrics:
            if not metric.needs_everything:
                metric.update(predictions, truths)

    def compute(self, everything: Callable[[], Inputs]) -> dict[str, float]:
        """Figures by name.

        Args:
            everything: gives predictions and truths of all processes.

        Raises:
            ConfigError: a metric gives something that is no figure.
        """
        values: dict[str, float] = {}
        for metric in self._metrics:
            if metric.needs_everything:
                metric.reset()
                metric.update(*everything())
            values.update(metric.compute())
        return values


class _Configured:
    """One of them."""

    def __init__(self, config: MetricConfig, class_names: tuple[str, ...], known: Mapping[str, Any]) -> None:
        self.config, self.class_names = config, class_names
        self._device = torch.device("cpu")
        self._metric = build_configured(config, known)
        modules = self._metric.modules() if isinstance(self._metric, Metric) else ()
        parts = [module for module in modules if isinstance(module, Metric)]
        # lists have as many entries as a process has batches or images, and gathering wants as many of each
        self._adds_up = bool(parts) and all(
            isinstance(state, Tensor) for part in parts for state in part.metric_state.values()
        )
        if not self._adds_up:
            for part in parts:
                part.distributed_available_fn = _never

    @property
    def needs_everything(self) -> bool:
        return not self._adds_up and several_processes()

    def to(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if isinstance(self._metric, torch.nn.Module):
            self._metric.to(self._device)

    def reset(self) -> None:
        self._metric.reset()

    def update(self, predictions: Any, truths: Any) -> None:
        try:
            self._metric.update(_moved(predictions, self._device), _moved(truths, self._device))
        except Exception as error:
            raise ConfigError(
                f"metric {self.config.name} ({self.config.metric_class}) cannot measure {_shape(predictions)} against "
                f"{_shape(truths)}: {one_line(error)}"
            ) from error

    def compute(self) -> dict[str, float]:
        name = self.config.name
        try:
            value = self._metric.compute()
        except Exception as error:
            raise ConfigError(
                f"metric {name} ({self.config.metric_class}) cannot be computed: {one_line(error)}"
            ) from error
        if not isinstance(value, Mapping):
            return self._entries(name, value, self.class_names)
        entries: dict[str, float] = {}
        seen = value.get("classes")  # torchmetrics' detection names the classes of its vectors so
        names = self.class_names if seen is None else [self.class_names[int(one)] for one in np.ravel(_array(seen))]
        for key, part in value.items():
            if key != "classes":
                entries.update(self._entries(f"{name}/{key}", part, names))
        return entries

    def _entries(self, name: str, value: Any, names: Sequence[str]) -> dict[str, float]:
        array = _array(value)
        if array.dtype.kind in "biuf" and array.size == 1:
            return {name: float(array.reshape(()))}
        if array.dtype.kind in "biuf" and array.shape == (len(names),):
            return {f"{name}/{of}": float(entry) for of, entry in zip(names, array, strict=True)}
        kind = f"an array of shape {list(array.shape)}" if array.dtype.kind in "biuf" else repr(value)[:80]
        raise ConfigError(
            f"metric {name} ({self.config.metric_class}) gives {kind}, but a figure is a number, a vector with an "
            f"entry for each of the {len(names)} classes, or a flat dictionary of these"
        )


def _never() -> bool:
    return False


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors, or lists of dictionaries of tensors, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return [{key: part.to(device) for key, part in row.items()} for row in value]


def _shape(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}".removeprefix("torch.") if isinstance(value, Tensor) else "boxes"


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy() if value.is_floating_point() else value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.asarray(None)
