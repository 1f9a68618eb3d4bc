"""Learning-rate schedules by name, as Lightning takes them.

Every schedule but ``plateau`` is a closed form: a factor on the learning rate for each optimizer step. The factors
are plain functions, so that a checkpoint holds nothing of them and a resumed run follows its own ``max_epochs``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from autotimm.described import check_options, class_and_params, import_class, mode_of
from autotimm.horizon import Horizon, RecipeLengths, horizon_of
from autotimm.optim.plateau import Plateau
from autotimm.runtime.errors import ConfigError

Factor = Callable[[int], float]
"""From the number of optimizer steps done to a factor on the learning rate."""


def list_schedulers() -> list[str]:
    """Names for the ``scheduler`` argument of every model."""
    return sorted([*_SCHEDULES, "none", "plateau"])


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    scheduler: str | Mapping[str, Any] | None,
    trainer: pl.Trainer,
    kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """A schedule as the ``lr_scheduler`` entry of Lightning's ``configure_optimizers``.

    Args:
        optimizer: whose learning rates are the schedule's peak.
        scheduler: one of :func:`list_schedulers`, or ``{"class": "dotted.path", "params": {...}}``, which is stepped
            once an epoch, or after each optimizer step with ``"interval": "step"``. ``None`` is ``"none"``.
        trainer: says how many steps and epochs there will be, and which metric a plateau is seen by.
        kwargs: arguments of the schedule.

    Returns:
        Lightning's dictionary, or ``None`` for a constant learning rate.

    Raises:
        ConfigError: unknown name or argument (near matches are named), or an endless training.
    """
    options = dict(kwargs or {})
    if isinstance(scheduler, Mapping):
        return _from_class(optimizer, scheduler, options)
    if scheduler is None or scheduler == "none":
        return None
    if scheduler == "plateau":
        return _plateau(optimizer, trainer, options)
    if scheduler not in _SCHEDULES:
        raise ConfigError.unknown("scheduler", scheduler, list_schedulers())
    factor = schedule_factor(scheduler, horizon_of(trainer), options)
    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step", "name": "lr"}


def _from_class(
    optimizer: torch.optim.Optimizer, description: Mapping[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    interval = description.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ConfigError(f"the interval of a scheduler is {interval!r}, but must be epoch or step")
    path, params = class_and_params(
        "scheduler", {name: value for name, value in description.items() if name != "interval"}
    )
    try:
        built = import_class("scheduler", path)(optimizer, **params, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scheduler {path} cannot be built with {params | options}: {error}") from error
    if isinstance(built, ReduceLROnPlateau):
        raise ConfigError(f"scheduler {path} goes by a metric: name it plateau, with its arguments as scheduler_kwargs")
    return {"scheduler": built, "interval": interval, "name": "lr"}


def schedule_factor(name: str, horizon: Horizon, options: Mapping[str, Any]) -> Factor:
    """The closed form of one named schedule.

    Raises:
        ConfigError: an argument that this schedule does not take, or cannot use.
    """
    schedule = _SCHEDULES[name]
    check_options(f"option of scheduler {name},", options, inspect.signature(schedule), skip=1)
    return schedule(horizon, **options)


def cosine(horizon: Horizon, *, warmup_epochs: float = 0.0, min_lr_ratio: float = 0.0) -> Factor:
    """Half a cosine from the learning rate down to ``min_lr_ratio`` of it, after a linear warm-up."""
    warmup = _warmup_steps(horizon, warmup_epochs)
    length = max(1, horizon.total_steps - warmup)
    return _with_warmup(warmup, lambda step: _half_cosine(1.0, min_lr_ratio, (step - warmup) / length))


def step(horizon: Horizon, *, step_size: float | None = None, gamma: float = 0.1, warmup_epochs: float = 0.0) -> Factor:
    """Times ``gamma`` every ``step_size`` epochs (a third of the training where not given)."""
    every = step_size if step_size is not None else max(1, horizon.epochs // 3)
    if every <= 0:
        raise ConfigError(f"step_size is {every}, but must be a positive number of epochs")
    warmup = _warmup_steps(horizon, warmup_epochs)
    return _with_warmup(warmup, lambda done: gamma ** _whole(done / horizon.steps_per_epoch / every))


def multistep(
    horizon: Horizon, *, milestones: Sequence[float] | None = None, gamma: float = 0.1, warmup_epochs: float = 0.0
) -> Factor:
    """Times ``gamma`` at each of the ``milestones``, in epochs.

    Where not given they are at 2/3 and 11/12 of the training, as in Detectron's 1x schedule (8 and 11 of 12 epochs).
    """
    marks = list(milestones) if milestones is not None else [horizon.epochs * 2 / 3, horizon.epochs * 11 / 12]
    warmup = _warmup_steps(horizon, warmup_epochs)
    return _with_warmup(warmup, lambda done: gamma ** sum(done / horizon.steps_per_epoch >= mark for mark in marks))


def exponential(horizon: Horizon, *, gamma: float = 0.95, warmup_epochs: float = 0.0) -> Factor:
    """Times ``gamma`` after every epoch."""
    warmup = _warmup_steps(horizon, warmup_epochs)
    return _with_warmup(warmup, lambda done: gamma ** _whole(done / horizon.steps_per_epoch))


def onecycle(
    horizon: Horizon, *, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4
) -> Factor:
    """Up from 1/``div_factor`` in the first ``pct_start`` of the training, then down to a final 1/``final_div_factor``.

    The learning rate as in torch's OneCycleLR; momentum is left alone.
    """
    if not 0.0 <= pct_start <= 1.0 or div_factor <= 0 or final_div_factor <= 0:
        raise ConfigError("onecycle needs pct_start in 0..1, and div_factor and final_div_factor above 0")
    start, end = 1 / div_factor, 1 / div_factor / final_div_factor
    peak, last = pct_start * horizon.total_steps - 1, max(1, horizon.total_steps - 1)

    def factor(done: int) -> float:
        if done <= peak:
            return _half_cosine(start, 1.0, done / peak) if peak > 0 else 1.0
        return _half_cosine(1.0, end, (done - peak) / max(1.0, last - peak))

    return factor


def cosine_with_restarts(
    horizon: Horizon,
    *,
    first_cycle_epochs: float | None = None,
    cycle_factor: float = 1.0,
    min_lr_ratio: float = 0.0,
    warmup_epochs: float = 0.0,
) -> Factor:
    """Half cosines one after another, each ``cycle_factor`` times as long as the one before it.

    The first takes ``first_cycle_epochs``, a third of the training where not given.
    """
    first = (first_cycle_epochs if first_cycle_epochs is not None else horizon.epochs / 3) * horizon.steps_per_epoch
    if first <= 0 or cycle_factor < 1:
        raise ConfigError("first_cycle_epochs must be positive and cycle_factor at least 1")
    warmup = _warmup_steps(horizon, warmup_epochs)

    def factor(done: int) -> float:
        position, length = float(done - warmup), first
        while position >= length:
            position -= length
            length *= cycle_factor
        return _half_cosine(1.0, min_lr_ratio, position / length)

    return _with_warmup(warmup, factor)


def yolox(
    horizon: Horizon,
    *,
    total_epochs: float | None = None,
    warmup_epochs: float = 5.0,
    no_aug_epochs: float = 15.0,
    min_lr_ratio: float = 0.05,
) -> Factor:
    """The official YOLOX schedule: quadratic warm-up, half a cosine to ``min_lr_ratio``, flat for the last epochs.

    ``total_epochs`` is the length that the other two are meant for, the trainer's where not given. The schedule always
    ends with the training: :meth:`RecipeLengths.fitted_to`.
    """
    recipe = RecipeLengths(horizon.epochs if total_epochs is None else total_epochs, warmup_epochs, no_aug_epochs)
    if warmup_epochs + no_aug_epochs > recipe.total:
        raise ConfigError(
            f"the yolox schedule warms up for {warmup_epochs:g} epochs and is flat for the last {no_aug_epochs:g}, "
            f"which is more than the {recipe.total:g} there are: lower warmup_epochs and no_aug_epochs, or train longer"
        )
    recipe = recipe.fitted_to(horizon.epochs)
    warmup = recipe.warmup * horizon.steps_per_epoch
    flat_from = (recipe.total - recipe.no_aug) * horizon.steps_per_epoch

    def factor(done: int) -> float:
        if done <= warmup and warmup > 0:
            return (done / warmup) ** 2
        if done >= flat_from:
            return min_lr_ratio
        return _half_cosine(1.0, min_lr_ratio, (done - warmup) / (flat_from - warmup))

    return factor


_SCHEDULES: dict[str, Callable[..., Factor]] = {
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "exponential": exponential,
    "multistep": multistep,
    "onecycle": onecycle,
    "step": step,
    "yolox": yolox,
}


def _half_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def _whole(quotient: float) -> int:
    """The whole part, where division has left a whole number a little short (.3 / .1 is 2.9999999999999996)."""
    return math.floor(quotient + 1e-9)


def _warmup_steps(horizon: Horizon, epochs: float) -> int:
    if epochs < 0:
        raise ConfigError(f"warmup_epochs is {epochs}, but must not be negative")
    return round(epochs * horizon.steps_per_epoch)


def _with_warmup(warmup: int, factor: Factor) -> Factor:
    """Climb in equal steps from 1/(warmup + 1) to what ``factor`` gives when the warm-up is over."""
    return lambda done: factor(done) if done >= warmup else factor(warmup) * (done + 1) / (warmup + 1)


def _plateau(optimizer: torch.optim.Optimizer, trainer: pl.Trainer, options: dict[str, Any]) -> dict[str, Any]:
    """Lower the learning rate when the validation metric has stopped improving; seen once per validation."""
    monitor = options.pop("monitor", None) or getattr(trainer.lightning_module, "monitor", None)
    if monitor is None:
        raise ConfigError("scheduler plateau needs to know which metric to watch: scheduler_kwargs={'monitor': NAME}")
    warmup = options.pop("warmup_epochs", 0.0)
    options.setdefault("mode", mode_of(monitor))
    check_options("option of scheduler plateau,", options, inspect.signature(ReduceLROnPlateau), skip=1)
    warmup_steps = _warmup_steps(horizon_of(trainer), warmup) if warmup else 0
    try:
        plateau = Plateau(optimizer, monitor, warmup_steps, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scheduler plateau cannot be built with {options}: {error}") from error
    return {"scheduler": plateau, "interval": "step", "name": "lr"}
