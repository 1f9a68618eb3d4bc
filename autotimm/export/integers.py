"""The arithmetic of int8: which whole numbers, and in which steps, stand for floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Range = tuple[float, float]
"""The smallest and the largest value that are told from their neighbours; what lies outside is clipped."""
_BIAS_STEPS = 1 << 22
"""A bias is told to this part of itself at least. int32 has 512 times as many steps, for layers that share a weight and
whose inputs have smaller scales."""


def scale_and_zero_point(values: Range, *, symmetric: bool) -> tuple[float, int]:
    """Of eight bits over a range, which is widened so that 0 is in it, and is exact.

    Args:
        values: smallest and largest.
        symmetric: int8 -127..127 around 0; otherwise uint8 0..255.
    """
    low, high = min(values[0], 0.0), max(values[1], 0.0)
    if symmetric:
        return max(-low, high) / 127 or 1.0, 0
    scale = (high - low) / 255 or 1.0
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def weight_in_int8(
    weight: Floats, axis: int, bias: Floats | None = None, input_scale: float = 1.0
) -> tuple[NDArray[np.int8], Floats]:
    """By output channel, between -127 and 127: -128 has no counterpart.

    Args:
        weight: of a layer.
        axis: that runs over its outputs.
        bias: that will be whole numbers in steps of the product of both scales, ``[outputs]``. Where training has left
            a channel next to no weight, as in depthwise layers, that product is so small that int32 would clip the
            bias, which is then all that the channel gives; so the scale has a lower bound.
        input_scale: of the activation.

    Returns:
        The whole numbers and the scales, ``[weight.shape[axis]]``.
    """
    others = tuple(place for place in range(weight.ndim) if place != axis)
    scales = (np.abs(weight).max(axis=others) / np.float32(127)).astype(np.float32)
    if bias is not None:
        largest = np.abs(bias).reshape(-1, len(scales)).max(axis=0)  # in groups of a transposed one they share a scale
        scales = np.maximum(scales, largest / np.float32(input_scale * _BIAS_STEPS)).astype(np.float32)
    scales[scales == 0] = 1.0
    shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
    return np.clip(np.rint(weight / scales.reshape(shape)), -127, 127).astype(np.int8), scales


def bias_in_int32(bias: Floats, scales: Floats) -> tuple[NDArray[np.int32], Floats]:
    """In the scales of the sums of products, where kernels add it.

    Args:
        bias: ``[outputs]``.
        scales: of the weight times that of the activation; of one group where there are several.
    """
    scales = np.tile(scales, bias.size // scales.size).astype(np.float32)
    limit = float(2**31 - 1)
    return np.clip(np.rint(bias.astype(np.float64) / scales), -limit, limit).astype(np.int32), scales
