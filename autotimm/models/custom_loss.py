"""Losses of the user's own: in place of a classifier's, or of terms of a detector's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autotimm.described import class_and_params, import_class
from autotimm.runtime.errors import ConfigError

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""From logits ``[N, C]`` and targets to a scalar. Targets are class indices int64 ``[N]``; or float32 ``[N, C]``, for
multi-label models, and where mixup or cutmix has blended labels."""


OBJECT = "object"
"""Key under which a checkpoint names a loss that it cannot build again."""
RECORDED = "recorded"
"""Key of a loss as a checkpoint's model is built with it. It is made when training needs it: never for evaluation or
an export, where its class may not be installed."""


def is_recorded(given: Any) -> bool:
    """Whether this is a loss that a checkpoint tells of."""
    return isinstance(given, Mapping) and set(given) == {RECORDED}


def recalled_loss(recorded: Mapping[str, Any]) -> LossFunction:
    """The loss that a checkpoint tells of.

    Raises:
        ConfigError: it cannot be had here.
    """
    description = recorded[RECORDED]
    if isinstance(description, Mapping) and OBJECT in description:
        raise ConfigError(
            f"this model was trained with {description[OBJECT]}, which its checkpoint does not hold: "
            "give it again (model.loss_fn, or model.loss.loss_fns) before it is trained further"
        )
    return custom_loss(description)


def custom_loss(given: str | Mapping[str, Any] | LossFunction) -> LossFunction:
    """A loss from a dotted path, from ``{"class": "dotted.path", "params": {...}}``, or as it is.

    A path may name a class, which is built, or a function.

    Raises:
        ConfigError: nothing of that name; or it has parameters of its own, which would not be trained.
    """
    loss: Any = given
    if isinstance(given, str | Mapping):
        path, params = (given, {}) if isinstance(given, str) else class_and_params("loss", given)
        found = import_class("loss", path)
        try:
            loss = found(**params) if isinstance(found, type) else found
        except (TypeError, ValueError) as error:
            raise ConfigError(f"loss {path} cannot be built with {params}: {error}") from error
        if not isinstance(found, type) and params:
            raise ConfigError(f"loss {path} is a function, which takes no params")
    if isinstance(loss, type):
        raise ConfigError(f"the loss is the class {loss.__name__}: give an object of it, or its dotted path")
    if not callable(loss):
        raise ConfigError(f"the loss is {loss!r}, but must be callable with what was predicted and the targets")
    if isinstance(loss, nn.Module) and any(parameter.requires_grad for parameter in loss.parameters()):
        raise ConfigError(f"loss {type(loss).__name__} has parameters of its own, which nothing would train")
    return loss  # type: ignore[no-any-return]


def recordable_loss(given: Any) -> Any:
    """A loss as a checkpoint can say it: a dotted path with its parameters, or the name of an object of unknown ones.

    Returns:
        ``None``, text, or a mapping of plain types.
    """
    if is_recorded(given):
        return given[RECORDED]
    if given is None or isinstance(given, str | Mapping):
        return given
    kind = given if hasattr(given, "__qualname__") else type(given)
    path = f"{kind.__module__}.{kind.__qualname__}"
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    is_importable = found is given and "." not in kind.__qualname__ and kind.__module__ != "__main__"
    return path if is_importable else {OBJECT: path}


def recordable_losses(given: Mapping[str, Any]) -> dict[str, Any]:
    """Losses by the names of their terms, each as :func:`recordable_loss` says it.

    Raises:
        ConfigError: they are not by name.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"loss_fns is {given!r}, but must be losses by the terms that they replace, such as "
            "{'classification': 'dotted.path'}"
        )
    losses = given[RECORDED] if is_recorded(given) else given
    return {str(name): recordable_loss(loss) for name, loss in losses.items()}
