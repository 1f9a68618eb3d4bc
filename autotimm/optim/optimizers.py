"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm.optim
import torch
from torch import nn

from autotimm.described import check_options, class_and_params, import_class
from autotimm.optim.learning_rates import learning_rate_scales
from autotimm.optim.groups import parameter_groups
from autotimm.runtime.errors import ConfigError

_TORCH_ONLY: dict[str, type[torch.optim.Optimizer]] = {"asgd": torch.optim.ASGD, "rprop": torch.optim.Rprop}
"""Optimizers of torch that timm has no name for. (LBFGS and SparseAdam cannot train these networks.)"""

_NEEDS_MORE = ("adahessian", "bnb", "fused", "kron")
"""Names of timm that want a second backward pass, bitsandbytes, apex or opt_einsum: not advertised."""


def list_optimizers() -> list[str]:
    """Names for the ``optimizer`` argument of every model: all that work with an installed torch and timm alone."""
    usable = {name for name in map(str, timm.optim.list_optimizers()) if not name.startswith(_NEEDS_MORE)}
    return sorted(usable | set(_TORCH_ONLY))


def build_optimizer(
    model: nn.Module,
    name: str | Mapping[str, Any],
    lr: float,
    weight_decay: float,
    kwargs: Mapping[str, Any] | None = None,
    *,
    layer_decay: float | None = None,
    lr_scales: Mapping[str, float] | None = None,
    include_frozen: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer over the parameters of a model.

    Args:
        model: its frozen parameters (``requires_grad=False``) are left out, unless ``include_frozen``.
        name: one of :func:`list_optimizers`, in any case, or ``{"class": "dotted.path", "params": {...}}``.
        lr: learning rate of every group whose scale is 1.
        weight_decay: of the weights; norms, biases and what the backbone exempts get none.
        kwargs: further arguments of the optimizer's class, such as ``betas`` or ``momentum``.
        layer_decay: as in :func:`parameter_groups`.
        lr_scales: as in :func:`parameter_groups`.
        include_frozen: as in :func:`parameter_groups`.

    Raises:
        ConfigError: unknown name (near matches are named) or arguments, or nothing to train.
    """
    groups = parameter_groups(
        model, lr, weight_decay, layer_decay=layer_decay, lr_scales=lr_scales, include_frozen=include_frozen
    )
    options = dict(kwargs or {})
    if isinstance(name, Mapping):
        path, params = class_and_params("optimizer", name)
        build: Callable[..., Any] = import_class("optimizer", path)
        label, options = path, {**params, **options}
    elif name.lower() in _TORCH_ONLY:
        label, build = name, _TORCH_ONLY[name.lower()]
    else:
        label, build = name, _timm_builder(name, options)
    try:
        optimizer = build(groups, **{"lr": lr, **options})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {label} cannot be built with {options}: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"optimizer {label} is a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    return optimizer


def _timm_builder(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory for one name of timm; options are checked first, for timm drops some that the class does not take."""
    wrapper, _, bare = name.lower().rpartition("_")  # "lookahead_adam" wraps "adam"
    if bare not in timm.optim.list_optimizers() or wrapper not in ("", "lookahead"):
        raise ConfigError.unknown("optimizer", name, list_optimizers())
    try:
        signature = inspect.signature(timm.optim.get_optimizer_class(bare, bind_defaults=False))
    except (AssertionError, ImportError) as error:
        raise ConfigError(f"optimizer {name} cannot be used here: {error}") from error
    check_options(f"option of optimizer {name},", options, signature, skip=1)
    return lambda groups, **arguments: timm.optim.create_optimizer_v2(groups, opt=name, **arguments)
