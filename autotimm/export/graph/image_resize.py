"""The pixels of the network input from an image of any size, in the graph: what ``runtime/resize.py`` does on the host.

All forms give whole grey levels as float32: an engine may not compute in uint8, and up to 2^24 whole numbers are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from autotimm.export.graph.image_placement import Axis, quotient

_PRECISION = 1 << 22
"""Pillow's weights are multiples of its inverse."""


def resize_nearest(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The source pixel under the centre of each: ``[H, W, 3]`` to ``[h, w, 3]``."""
    upper, left = (quotient(*_centres(axis)) for axis in (rows, columns))
    return image.index_select(0, upper).index_select(1, left).float()


def resize_bilinear(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Bit for bit as :mod:`autotimm.runtime.bilinear`, whose formulas these are: OpenCV's ``INTER_LINEAR``.

    Exact in float32: every value is a whole number below 2^24 or that over a power of two, and the positions are
    correctly rounded quotients of two of them, as long as ``2 * side * source`` is below 2^24 (13,000 pixels at 640).

    Args:
        image: ``[H, W, 3]``, of the type in which the engine gathers.
        rows: where it lies along the height.
        columns: along the width.

    Returns:
        float32 ``[h, w, 3]`` of whole grey levels; in the padding anything.
    """
    upper, lower, v = _taps(rows)
    left, right, w = _taps(columns)
    w = per_channel(torch.where(left == right, 0.0, w))  # at the edge no mixture of one pixel with itself
    v = v[:, None]
    near = image.index_select(0, torch.cat((upper, lower))).index_select(1, torch.cat((left, right)))
    near = near.flatten(1).float()
    first, second = near[:, : 3 * columns.side], near[:, 3 * columns.side :]
    mixed = torch.floor((first * 2048 + (second - first) * w) / 16)
    above, below = mixed[: rows.side], mixed[rows.side :]
    levels = torch.floor((_share(above, 2048 - v) + _share(below, v) + 2) / 4)
    return torch.unflatten(levels, 1, (columns.side, 3))


def per_channel(values: Tensor) -> Tensor:
    """``[w]`` to ``[3 w]``, for rows of interleaved channels: over an axis of three, ONNX Runtime broadcasts slowly."""
    return values[:, None].expand(-1, 3).flatten()


def _taps(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels beside the centre of each pixel, int64 ``[side]``, and the second's weight in 1/2048."""
    numerator, denominator = _centres(axis)
    position = (numerator - axis.resized).float() / denominator.float()
    first = position.floor()
    weight = ((position - first) * 2048).round()
    index = first.long()
    last = axis.source - 1
    return torch.minimum(index.clamp(min=0), last), torch.minimum((index + 1).clamp(min=0), last), weight


def _share(h: Tensor, weight: Tensor) -> Tensor:
    """``h * weight >> 16`` for h below 2^15 and weights up to 2^11, whose product float32 does not hold."""
    coarse = torch.floor(weight / 32)
    fine = weight - 32 * coarse
    return torch.floor((h * coarse + torch.floor(h * fine / 32)) / 2048)


def resize_by_matrices(image: Tensor, rows: Axis, columns: Axis, interpolation: str) -> Tensor:
    """Pillow's antialiased filters as two matrix products, which every engine has; along the rows first.

    As Pillow does, each of the two rounds to grey levels, and the weights are in 2^-22. The sums are in float32, so
    that a level differs where the exact value lies within a ten-thousandth of a half.

    Args:
        image: float32 ``[H, W, 3]``.
        rows: where it lies along the height.
        columns: along the width.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"lanczos"``.

    Returns:
        float32 ``[h, w, 3]`` of whole grey levels; in the padding anything.
    """
    across, down = _weights(columns, interpolation), _weights(rows, interpolation)
    narrow = _grey_levels(torch.matmul(image.permute(2, 0, 1), across.transpose(0, 1)))
    return _grey_levels(torch.matmul(down, narrow)).permute(1, 2, 0)


def _grey_levels(values: Tensor) -> Tensor:
    return torch.floor(values + 0.5).clamp(0, 255)


def _weights(axis: Axis, interpolation: str) -> Tensor:
    """Float32 ``[side, source]``: how much of each source pixel is in each pixel (Pillow's ``precompute_coeffs``)."""
    numerator, denominator = _centres(axis)
    under = quotient(numerator, denominator)  # the source pixel under the centre
    beyond = (numerator - under * denominator).float() / denominator.float()  # of the centre beyond its edge
    distance = (axis.pixels - under[:, None]).float() + (0.5 - beyond)[:, None]
    # Where the image shrinks, the filter widens: a distance counts in pixels of the scaled image.
    shrinking = axis.resized.float() / torch.maximum(axis.source, axis.resized).float()
    weights = _FILTERS[interpolation]((distance * shrinking).abs())
    return torch.floor(weights / weights.sum(dim=1, keepdim=True) * _PRECISION + 0.5) / _PRECISION


def _centres(axis: Axis) -> tuple[Tensor, Tensor]:
    """The centre of each pixel in the source, from the outer corner of its first pixel, as a fraction of integers:
    int64 ``[side]`` and ``[]``.
    """
    return (2 * axis.scaled_pixels() + 1) * axis.source, 2 * axis.resized


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5."""
    inner = (1.5 * distance - 2.5) * distance * distance + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, inner, torch.where(distance < 2, outer, 0.0))


def _lanczos(distance: Tensor) -> Tensor:
    """``sinc(x) sinc(x / 3)``."""
    angle = math.pi * distance.clamp(1e-4, 3.0)  # at 1e-4 it is 1 to within float32
    return torch.where(distance < 3, 3 * torch.sin(angle) * torch.sin(angle / 3) / (angle * angle), 0.0)


_FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bilinear": _bilinear, "bicubic": _bicubic, "lanczos": _lanczos}
