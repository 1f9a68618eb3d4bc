"""How fast each parameter learns, as a factor on the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm.models
from torch import nn

from autotimm.runtime.errors import ConfigError


def learning_rate_scales(
    model: nn.Module, layer_decay: float | None = None, by_prefix: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The factor of each parameter, frozen ones included.

    Args:
        model: holds one timm network somewhere, where ``layer_decay`` is given.
        layer_decay: factor from each layer of that network to the one below it, the classifier being the topmost
            (BEiT, https://arxiv.org/abs/2106.08254, appendix; timm groups the layers).
        by_prefix: a further factor by the beginning of the parameter's name; the longest that fits counts.

    Returns:
        Parameter name to factor.

    Raises:
        ConfigError: a factor out of range, or layers that timm does not know.
    """
    by_layer = {} if layer_decay is None else _layer_scales(model, layer_decay)
    prefixes = sorted(by_prefix or {}, key=len, reverse=True)
    scales = {}
    for name, _ in model.named_parameters():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        factor = 1.0 if prefix is None or by_prefix is None else by_prefix[prefix]
        scales[name] = by_layer.get(name, 1.0) * factor
    return scales


def _layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    if not 0.0 < decay <= 1.0:
        raise ConfigError(f"layer_decay is {decay}, but must be above 0 and at most 1")
    for prefix, module in model.named_modules():
        network: Any = module
        if hasattr(network, "group_matcher"):
            layers: dict[str, int] = timm.models.group_parameters(
                network, network.group_matcher(coarse=False), reverse=True
            )
            top = max(layers.values())
            start = f"{prefix}." if prefix else ""
            return {f"{start}{name}": decay ** (top - layer) for name, layer in layers.items()}
    raise ConfigError("layer_decay needs a network whose layers timm can tell apart, and this model has none")
