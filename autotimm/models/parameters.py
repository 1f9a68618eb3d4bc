"""How large a model is."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """The number of weights of a model; shared ones count once.

    Args:
        model: any module.
        trainable_only: leave frozen ones out.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trainable_only)
