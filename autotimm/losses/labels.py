"""Whether labels are classes of the network."""

from __future__ import annotations

from torch import Tensor

from autotimm.runtime.errors import ConfigError


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that would index past the classes.

    Args:
        labels: int64 ``[n]``, at least one.
        num_classes: of the network.

    Raises:
        ConfigError: one of them is below 0, or not below ``num_classes``.
    """
    if labels.min() < 0 or labels.max() >= num_classes:
        seen = f"{int(labels.min())}..{int(labels.max())}"
        raise ConfigError(f"labels are {seen}, but the network has {num_classes} classes, counted from 0")
