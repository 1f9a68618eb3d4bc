"""Where channels-last memory is not safe.

Pixels come as ``[N, H, W, 3]``, so normalised batches are channels-last in memory, in which convolutions on a CPU are
quicker (``python -m autotimm.benchmarks.training_throughput``, with and without ``--channels-last``). But the gradient
of a strided 1x1 convolution with fewer than 16 input channels then writes past a buffer: memory is corrupted or the
gradient wrong (oneDNN issue 6035, seen with torch 2.14). Such convolutions stand in the stems of RepVGG, MobileOne and
FastViT.
"""

from __future__ import annotations

from torch import Tensor, nn

ONEDNN_BLOCK = 16
"""Channels that oneDNN takes at a time with AVX-512; 8 with AVX2."""


def guard_strided_convolutions(network: nn.Module) -> None:
    """Let those convolutions of a network train on contiguous copies of their inputs, on a CPU."""
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.in_channels < ONEDNN_BLOCK
            and module.groups == 1
            and set(module.kernel_size) == {1}
            and max(module.stride) > 1
        ):
            module.register_forward_pre_hook(_contiguous)


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Hook of torch; without effect on graphs, which are made in evaluation mode."""
    if not module.training or inputs[0].device.type != "cpu":
        return None
    return (inputs[0].contiguous(), *inputs[1:])
