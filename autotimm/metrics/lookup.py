"""From the name of a metric's class to an object, with the arguments that follow from the task filled in."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torchmetrics
import torchmetrics.detection
import torchmetrics.functional.classification
import torchmetrics.functional.detection
from torch import Tensor

from autotimm.described import import_class
from autotimm.metrics.config import MetricConfig
from autotimm.runtime.errors import ConfigError, one_line

_PLACES: tuple[ModuleType, ...] = (
    torchmetrics.classification,
    torchmetrics.detection,
    torchmetrics,
    torchmetrics.functional.classification,
    torchmetrics.functional.detection,
    torchmetrics.functional,
)
"""Where a bare name is looked for, in this order."""

_OF_EVERY_METRIC = (
    "compute_on_cpu",
    "compute_with_cache",
    "dist_sync_fn",
    "dist_sync_on_step",
    "distributed_available_fn",
    "process_group",
    "sync_on_compute",
)
"""What ``torchmetrics.Metric`` itself takes, behind the ``**kwargs`` of its subclasses."""


def build_configured(config: MetricConfig, known: Mapping[str, Any]) -> Any:
    """The object that a configuration describes.

    Args:
        config: of the metric.
        known: arguments that follow from the task, for a class that takes them.

    Returns:
        Anything with ``update``, ``compute`` and ``reset``.

    Raises:
        ConfigError: there is no such class, it does not take the params, or it is no metric.
    """
    found = _torchmetrics(config) if config.backend == "torchmetrics" else _custom(config)
    params = _with_known(config, found, known)
    if not inspect.isclass(found):
        return _Functional(found, params)
    try:
        with warnings.catch_warnings():
            # that curves keep all they see; what there is to keep is as large as the predictions are
            warnings.filterwarnings("ignore", "Metric `.*` will save all")
            metric = found(**params)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"metric {config.name}: {config.metric_class} cannot be made with {params}: {one_line(error)}"
        ) from error
    missing = [name for name in ("update", "compute", "reset") if not callable(getattr(metric, name, None))]
    if missing:
        raise ConfigError(
            f"metric {config.name}: {config.metric_class} is no metric: it has no method {', '.join(missing)}"
        )
    return metric


class _Functional:
    """A functional metric on everything that has been seen."""

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
        self._function, self._params = function, params
        self.reset()

    def reset(self) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, predictions: Tensor, truths: Tensor) -> None:
        self._seen.append((predictions, truths))

    def compute(self) -> Any:
        predictions, truths = zip(*self._seen, strict=True)
        return self._function(torch.cat(predictions), torch.cat(truths), **self._params)


def _torchmetrics(config: MetricConfig) -> Any:
    name = config.metric_class.removeprefix("torchmetrics.")
    if "." in name:
        found: Any = torchmetrics
        for part in name.split("."):
            found = getattr(found, part, None)
        places = [place for place in _PLACES if place.__name__ == f"torchmetrics.{name.rpartition('.')[0]}"]
    else:
        places = list(_PLACES)
        found = next((getattr(place, name) for place in places if name in _names(place)), None)
    if not callable(found):
        last = name.rpartition(".")[2]
        known = {one for place in places or _PLACES for one in _names(place)}
        raise ConfigError.unknown(f"metric of torchmetrics (metric {config.name})", last, known)
    return found


def _names(place: ModuleType) -> list[str]:
    """The classes and functions that a module offers."""
    return [name for name in place.__all__ if callable(getattr(place, name, None))]


def _custom(config: MetricConfig) -> Any:
    found = import_class(f"metric {config.name}:", config.metric_class)
    if not inspect.isclass(found):
        raise ConfigError(f"metric {config.name}: {config.metric_class} is a function; a custom metric is a class")
    return found


def _with_known(config: MetricConfig, found: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """The params, after a look at their names, and with what is known and was not given."""
    parameters = _parameters(found)
    takes = {name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    if inspect.isclass(found) and issubclass(found, torchmetrics.Metric):
        is_open = False
        allowed = takes | set(_OF_EVERY_METRIC)
    else:
        is_open = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        allowed = takes
    for name in config.params:
        if not is_open and name not in allowed:
            raise ConfigError.unknown(f"argument of {config.metric_class} (metric {config.name})", name, allowed)
    filled = {name: value for name, value in known.items() if name in takes}
    return {**filled, **config.params}


def _parameters(found: Any) -> dict[str, inspect.Parameter]:
    """The arguments beside ``self`` of a class, and beside predictions and truths of a function."""
    if not inspect.isclass(found):
        construct, skipped = found, 2
    else:  # torchmetrics' general names, such as F1Score, choose a class in __new__
        construct, skipped = (found.__new__ if "__new__" in vars(found) else found.__init__), 1
    return dict(list(inspect.signature(construct).parameters.items())[skipped:])
