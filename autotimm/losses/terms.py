"""Losses of the user's own in place of single terms of a detector's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from autotimm.runtime.errors import ConfigError

TermFunction = Callable[[Tensor, Tensor], Tensor]
"""From what was predicted and what should have been to the sum over all of it, or to values that are summed here: one
for each element, or one for each row. What the two are is said by the loss that has the term. float32."""


def check_terms(given: Mapping[str, TermFunction], known: tuple[str, ...]) -> dict[str, TermFunction]:
    """The terms themselves.

    Raises:
        ConfigError: a loss has no term of this name; its own are named.
    """
    for name in given:
        if name not in known:
            raise ConfigError.unknown("term of this detector's loss (loss_fns)", str(name), known)
    return dict(given)


def term(
    given: Mapping[str, TermFunction], name: str, default: TermFunction, predicted: Tensor, target: Tensor
) -> Tensor:
    """The sum of one term, by the user's function where there is one.

    Raises:
        ConfigError: it gives something else than numbers for these elements or rows.
    """
    if name not in given:
        return default(predicted, target)
    try:
        value = given[name](predicted, target)
    except TypeError as error:
        raise ConfigError(
            f"loss_fns: {name} is called with what was predicted and the target, two tensors, and failed: {error}"
        ) from error
    if not isinstance(value, Tensor) or value.shape not in ((), predicted.shape, predicted.shape[:1]):
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ConfigError(
            f"loss_fns: {name} must give the sum, or a value for each element or row of {list(predicted.shape)}, "
            f"but gave {found}"
        )
    return value.sum()
