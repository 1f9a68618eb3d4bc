"""What every export graph declares about itself."""

from __future__ import annotations

from torch import nn


class ExportGraph(nn.Module):
    """A module from uint8 RGB ``[N, H, W, 3]``, or ``[H, W, 3]``, to a tuple: the artifact's outputs, then internal
    values.
    """

    output_names: tuple[str, ...]
    """Names of the artifact's outputs."""
    internal_names: tuple[str, ...] = ()
    """Names of values that follow them; they stay inside the artifact, for verification to look at."""
    network: nn.Module
    portable: bool = True
    """Whether the graph has only operators that every engine runs."""
