"""Parameter groups: weight decay on the weights only, and learning rates that differ between parts of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import timm.models
from torch import nn

from autotimm.runtime.errors import ConfigError

Kind = Literal["norm", "weight", "bias"]
_KINDS: tuple[Kind, ...] = ("norm", "weight", "bias")
"""The order of the official YOLOX; only weights are decayed."""


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    layer_decay: float | None = None,
    lr_scales: Mapping[str, float] | None = None,
    include_frozen: bool = False,
) -> list[dict[str, Any]]:
    """Split parameters as the official YOLOX does, norm weights, other weights, biases, for each learning rate.

    Only weights are decayed. Parameters with fewer than two dimensions count as norm weights (layer scale, learned
    temperatures), and so do those that a timm network names in its ``no_weight_decay()``.

    Every group carries its own ``lr``. Schedules multiply it, so that the groups keep their ratios. The groups of the
    highest rate come first.

    Args:
        model: with a timm network somewhere in it, where ``layer_decay`` is given.
        lr: learning rate of a scale of 1.
        weight_decay: of the weights.
        layer_decay: in (0, 1]: a parameter of a timm network learns at this to the power of the number of layers above
            its own, as in BEiT (https://arxiv.org/abs/2106.08254). The layers are timm's; the classifier is the last.
        lr_scales: factors on the learning rate by the name of a submodule or parameter, such as ``{"network": 0.1,
            "network.fc": 1.0}``; the longest name that fits counts. On top of ``layer_decay``.
        include_frozen: put parameters with ``requires_grad=False`` in as well, which optimizers skip until they are
            unfrozen and get a gradient.

    Raises:
        ConfigError: every parameter is frozen; a factor out of range; a name in ``lr_scales`` that is not there; a
            ``layer_decay`` for a model in which timm knows no layers.
    """
    names = [name for name, _ in model.named_parameters()]
    by_layer = {} if layer_decay is None else _layer_scales(model, layer_decay)
    by_name = _named_scales(names, lr_scales or {})
    exempt = _exempt_from_decay(model)
    groups: dict[tuple[float, Kind], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or include_frozen:
            scale = by_layer.get(name, 1.0) * by_name.get(name, 1.0)
            groups.setdefault((scale, _kind(name, parameter, exempt)), []).append(parameter)
    if not any(parameter.requires_grad for group in groups.values() for parameter in group):
        raise ConfigError("there is nothing to train: every parameter of the model is frozen")
    return [
        {"params": groups[scale, kind], "weight_decay": weight_decay if kind == "weight" else 0.0, "lr": lr * scale}
        for scale, kind in sorted(groups, key=lambda key: (-key[0], _KINDS.index(key[1])))
    ]


def _kind(name: str, parameter: nn.Parameter, exempt: set[str]) -> Kind:
    if name.rpartition(".")[2] == "bias":
        return "bias"
    return "norm" if parameter.ndim < 2 or name in exempt else "weight"


def _exempt_from_decay(model: nn.Module) -> set[str]:
    names = set()
    for prefix, module in model.named_modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            names |= {_joined(prefix, name) for name in exempt()}
    return names


def _layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """``layer_decay`` to the power of the layers above, for every parameter of the timm networks in a model."""
    if not 0 < layer_decay <= 1:
        raise ConfigError(f"layer_decay is {layer_decay}, but must be above 0 and at most 1")
    scales: dict[str, float] = {}
    for prefix, network in _timm_networks(model):
        layer_of = timm.models.group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        last = max(layer_of.values())
        scales |= {_joined(prefix, name): layer_decay ** (last - layer) for name, layer in layer_of.items()}
    if not scales:
        raise ConfigError(
            "layer_decay needs a network whose layers timm knows (a group_matcher()), and this model has none; "
            "leave layer_decay out, or choose another backbone"
        )
    return scales


def _timm_networks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Outermost modules that know their layers; a hybrid transformer has a second one inside."""
    taken: list[str] = []
    for prefix, module in model.named_modules():
        # The class is asked, since wrappers such as torch.compile's hand on the attribute but not the names.
        if hasattr(type(module), "group_matcher") and not any(_is_within(prefix, outer) for outer in taken):
            taken.append(prefix)
            yield prefix, module


def _named_scales(names: list[str], lr_scales: Mapping[str, float]) -> dict[str, float]:
    """The factor of every parameter that one of the given names fits."""
    parts = {part.rstrip("."): factor for part, factor in lr_scales.items()}
    for part, factor in parts.items():
        if not (factor > 0 and math.isfinite(factor)):
            raise ConfigError(f"the learning-rate scale of {part!r} is {factor}, but must be a positive number")
        if not any(_is_within(name, part) for name in names):
            known = {name.rpartition(".")[0] for name in names} | {name.partition(".")[0] for name in names}
            raise ConfigError.unknown("part of the model to scale the learning rate of,", part, known)
    longest_first = sorted(parts, key=len, reverse=True)
    fitting = {name: next((part for part in longest_first if _is_within(name, part)), None) for name in names}
    return {name: parts[part] for name, part in fitting.items() if part is not None}


def _is_within(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
