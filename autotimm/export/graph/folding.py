"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from autotimm.models.yolox.blocks import Focus

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Those whose weight is used as it stands; others standardise it, or put it together, each time."""
_TOLERANCE = 1e-3
"""Of the answers, relative to the largest of them."""


def fold_batch_norms(network: nn.Module, pixels: Tensor) -> nn.Module:
    """A copy in which batch norms that directly follow a convolution only add, and the convolution scales.

    Which follows which is seen in one run. A convolution that something else reads as well cannot be told from that; so
    the answers are compared, and where they differ nothing is folded.

    Args:
        network: in evaluation mode; it is not changed.
        pixels: an input of it, float32 ``[N, 3, H, W]``.
    """
    folded = copy.deepcopy(network)
    with torch.no_grad():
        pairs = list(_pairs(folded, pixels))
        expected = list(tensors_of(network(pixels)))
        for convolution, norm in pairs:
            _fold(convolution, norm)
        found = list(tensors_of(folded(pixels)))
    same = all(_are_near(one, other) for one, other in zip(expected, found, strict=True))
    return folded if same else copy.deepcopy(network)


def _are_near(expected: Tensor, found: Tensor) -> bool:
    return float((expected - found).abs().max()) <= _TOLERANCE * float(expected.abs().max())


def _pairs(network: nn.Module, pixels: Tensor) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and the norms that are given what they make, each of which runs once."""
    made: list[tuple[nn.Conv2d, Tensor]] = []  # holds the tensors, so that no other takes the place of one
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        if type(module) in _CONVOLUTIONS:
            made.append((module, output))  # type: ignore[arg-type]

    def ask(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None and not module.training:
            pairs.extend((convolution, module) for convolution, output in made if output is inputs[0])

    handles = [module.register_forward_hook(note) for module in network.modules() if type(module) in _CONVOLUTIONS]
    handles += [module.register_forward_pre_hook(ask) for module in network.modules()]
    try:
        network(pixels)
    finally:
        for handle in handles:
            handle.remove()
    runs = Counter(id(convolution) for convolution, _ in made)
    uses = Counter(id(norm) for _, norm in pairs)
    yield from ((one, norm) for one, norm in pairs if runs[id(one)] == 1 and uses[id(norm)] == 1)
    # runs the weight of its convolution in another order, and not the module
    yield from ((block.conv.conv, block.conv.bn) for block in network.modules() if isinstance(block, Focus))


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """The scale goes into the weight; what is added stays with the norm, since not every convolution adds something."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        norm.weight.fill_(1)
        norm.bias.zero_()
    if convolution.bias is not None:
        shift = shift + convolution.bias * scale
        convolution.bias.zero_()
    convolution.weight.mul_(scale[:, None, None, None])
    mean.copy_(-shift)
    variance.fill_(1 - norm.eps)


def tensors_of(outputs: Any) -> Iterator[Tensor]:
    """What a network gives, however it is put together."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, tuple | list):
        for part in outputs:
            yield from tensors_of(part)
