"""Optimizers by name, with weight decay on the weights only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm.optim
import torch
from torch import nn

from autotimm.described import check_options, class_and_params, import_class
from autotimm.optim.learning_rates import learning_rate_scales
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
    """An optimizer over the trainable parameters of a model.

    Args:
        model: frozen parameters (``requires_grad=False``) are left out.
        name: one of :func:`list_optimizers`, or ``{"class": "dotted.path", "params": {...}}``.
        lr: learning rate; of each group times its factor.
        weight_decay: of the weights; norms, biases and what the backbone exempts get none.
        kwargs: further arguments of the optimizer's class, such as ``betas`` or ``momentum``.
        layer_decay: factor on the learning rate from each layer to the one below: :func:`learning_rate_scales`.
        lr_scales: factors on the learning rate by the beginning of the parameter's name.
        include_frozen: take frozen parameters too, which will be trained later. Without gradients they stay.

    Raises:
        ConfigError: unknown name (near matches are named) or arguments, or nothing to train.
    """
    scales = learning_rate_scales(model, layer_decay, lr_scales)
    groups = [
        {"params": group.params, "weight_decay": group.weight_decay, "lr": lr * group.lr_scale}
        for group in parameter_groups(model, weight_decay, scales, include_frozen)
    ]
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


class ParameterGroup(NamedTuple):
    """Parameters that are treated alike."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    lr_scales: Mapping[str, float] | None = None,
    include_frozen: bool = False,
) -> list[ParameterGroup]:
    """Split parameters as the official YOLOX does: norm weights, other weights, biases; and each by learning rate.

    Only the second kind is decayed. Parameters with fewer than two dimensions count as norm weights (layer scale,
    learned temperatures), and so do those that a timm network names in its ``no_weight_decay()``.

    Args:
        model: whose parameters.
        weight_decay: of the second kind.
        lr_scales: factor on the learning rate by parameter name; 1 where absent. The fastest come first.
        include_frozen: with those of ``requires_grad=False``.

    Raises:
        ConfigError: every parameter is frozen.
    """
    exempt = _exempt_from_decay(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("there is nothing to train: every parameter of the model is frozen")
    kinds: dict[tuple[float, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not (parameter.requires_grad or include_frozen):
            continue
        if name.rpartition(".")[2] == "bias":
            kind = _BIASES
        elif parameter.ndim < 2 or name in exempt:
            kind = _NORMS
        else:
            kind = _WEIGHTS
        kinds.setdefault(((lr_scales or {}).get(name, 1.0), kind), []).append(parameter)
    return [
        ParameterGroup(kinds[scale, kind], weight_decay if kind == _WEIGHTS else 0.0, scale)
        for scale, kind in sorted(kinds, key=lambda key: (-key[0], key[1]))
    ]


_NORMS, _WEIGHTS, _BIASES = range(3)


def _exempt_from_decay(model: nn.Module) -> set[str]:
    names = set()
    for prefix, module in model.named_modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            names |= {f"{prefix}.{name}" if prefix else name for name in exempt()}
    return names


def _timm_builder(name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory for one name of timm; options are checked first, for timm drops some that the class does not take."""
    bare = name.lower().removeprefix("lookahead_")  # which wraps any other
    if bare not in timm.optim.list_optimizers():
        raise ConfigError.unknown("optimizer", name, list_optimizers())
    try:
        signature = inspect.signature(timm.optim.get_optimizer_class(bare, bind_defaults=False))
    except (AssertionError, ImportError) as error:
        raise ConfigError(f"optimizer {name} cannot be used here: {error}") from error
    check_options(f"option of optimizer {name},", options, signature, skip=1)
    return lambda groups, **arguments: timm.optim.create_optimizer_v2(groups, opt=name, **arguments)
