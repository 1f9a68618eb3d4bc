"""The network in half precision, with float32 before and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autotimm.export.graph.folding import fold_batch_norms
from autotimm.runtime.errors import ExportError

LARGEST = float(torch.finfo(torch.float16).max)
"""65504: what is larger becomes infinite in half precision, and soon not a number (NaN)."""


def in_half(network: nn.Module, pixels: Tensor) -> nn.Module:
    """A copy whose weights and arithmetic are float16, while what it takes and gives stays float32.

    Batch norms are folded into the convolutions before them while all is float32: the variances of a network that takes
    pixels of 0..255 can be larger than float16 knows, and so can what comes out of its first layer.

    The casts are hooks rather than a module around it, so that every node of the graph keeps the name of its layer. The
    mask head of an instance segmentor, which is called by itself, has them too.

    Args:
        network: float32; it is not changed.
        pixels: an input of it, float32 ``[N, 3, H, W]`` with something to see on it.

    Raises:
        ExportError: a weight is too large for float16; its name is given.
    """
    folded = fold_batch_norms(network, pixels)
    for name, value in folded.state_dict().items():
        if value.is_floating_point() and bool((value.abs() > LARGEST).any()):
            raise ExportError(
                f"{name} holds {float(value.abs().max()):.4g}, but float16 ends at {LARGEST:.0f}: "
                "export with --precision fp32"
            )
    half = folded.half()
    for module in (half, getattr(half, "mask_head", None)):
        if isinstance(module, nn.Module):
            module.register_forward_pre_hook(lambda _, inputs: _cast(inputs, torch.float16))
            module.register_forward_hook(lambda _, __, outputs: _cast(outputs, torch.float32))
    return half


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Every floating-point tensor of a tensor, a tuple (of names or not) or a list."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        parts = [_cast(part, dtype) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def find_overflow(network: nn.Module, run: Callable[[], Iterable[object]]) -> str:
    """The first layer whose values are too large for float16, in words; empty where none is.

    Args:
        network: in float32.
        run: runs it on some images, one after another.
    """
    seen: dict[str, float] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
                largest = float(output.detach().abs().max())
                if not largest <= LARGEST:
                    seen[name] = max(seen.get(name, 0.0), largest)

        return note

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if not [*module.children()]
    ]
    try:
        for _ in run():
            if seen:
                break
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        return ""
    name, largest = next(iter(seen.items()))
    return f"{name} gives values up to {largest:.3g}, but float16 ends at {LARGEST:.0f}"
