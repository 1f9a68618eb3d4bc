"""Bilinear resizing without antialiasing, bit for bit as OpenCV's ``INTER_LINEAR`` does it on uint8.

Official YOLOX weights were trained and measured on pixels resized by OpenCV. Its fixed-point arithmetic truncates
twice, so a correctly rounded result differs by one grey level here and there, which was seen to move detections by
2 px. Per axis, the centre of a wanted pixel lies between two source pixels, mixed with weights in 1/2048 (float32,
rounded half to even); columns first, then rows:

    h = (left * (2048 - w) + right * w) >> 4
    pixel = (((2048 - v) * h_upper >> 16) + (v * h_lower >> 16) + 2) >> 2
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHUNK = 80_000
"""Numbers per block of rows: a few such int16 arrays stay in the second-level cache."""


class Span(NamedTuple):
    """One axis: the source has ``source`` pixels, is scaled to ``resized``, of which ``start:stop`` are wanted."""

    source: int
    resized: int
    start: int
    stop: int


def resize_bilinear(image: NDArray[np.uint8], rows: Span, columns: Span, out: NDArray[np.uint8]) -> None:
    """Resize the wanted part of an image.

    Everything fits 16-bit integers but the products of the second step: with ``w = 16 q + r``, the first line above is
    ``(left << 7) + (right - left) * q + ((right - left) * r >> 4)``, exactly.

    Args:
        image: uint8 ``[H, W, 3]``.
        rows: the wanted rows.
        columns: the wanted columns.
        out: uint8 ``[rows, columns, 3]``, written.
    """
    upper, lower, weight_upper, weight_lower = _row_taps(rows)
    left, right, coarse, fine = _column_taps(columns)
    flat = np.ascontiguousarray(image).reshape(rows.source, columns.source * 3)
    count, width = len(upper), len(left)
    step = max(1, min(count, _CHUNK // width))
    # Neighbouring rows share their source rows, unless the image shrinks so much that most rows are skipped.
    is_dense = rows.source <= 2 * rows.resized
    span = int((lower[step - 1 :] - upper[: count - step + 1]).max()) + 1 if is_dense else 2 * step
    gathered, mixed, difference, remainder, total, addend = _scratch(
        ((span, width), np.uint8),
        ((span, width), np.int16),
        ((span, width), np.int16),
        ((span, width), np.int16),
        ((step, width), np.int32),
        ((step, width), np.int32),
    )
    for start in range(0, count, step):
        block = slice(start, min(start + step, count))
        here = block.stop - block.start
        if is_dense:
            first = upper[start]
            source = flat[first : lower[block.stop - 1] + 1]
            above, below = upper[block] - first, lower[block] - first
        else:
            source = flat[np.concatenate((upper[block], lower[block]))]
            above, below = np.arange(here), np.arange(here, 2 * here)
        used = len(source)
        pixels, h, delta, rest = gathered[:used], mixed[:used], difference[:used], remainder[:used]
        # The indices are in range; mode="clip" only spares take() a copy of its output.
        source.take(left, axis=1, out=pixels, mode="clip")
        h[...] = pixels
        source.take(right, axis=1, out=pixels, mode="clip")
        delta[...] = pixels
        delta -= h
        np.multiply(delta, fine, out=rest)
        rest >>= 4
        delta *= coarse
        h <<= 7
        h += delta
        h += rest
        result, other = total[:here], addend[:here]
        result[...] = h[above]
        result *= weight_upper[block]
        result >>= 16
        other[...] = h[below]
        other *= weight_lower[block]
        other >>= 16
        result += other
        result += 2
        result >>= 2
        out[block] = result.reshape(here, -1, 3)


_kept = threading.local()


def _scratch(*wanted: tuple[tuple[int, int], type[np.generic]]) -> list[NDArray[Any]]:
    """Arrays to write over, in memory that each thread keeps: fresh pages would cost as much as the arithmetic."""
    sizes = [math.prod(shape) * np.dtype(kind).itemsize for shape, kind in wanted]
    starts = [0, *accumulate(-(-size // 64) * 64 for size in sizes)]  # each begins a cache line
    memory: NDArray[np.uint8] | None = getattr(_kept, "memory", None)
    if memory is None or memory.size < starts[-1]:
        memory = _kept.memory = np.empty(starts[-1], np.uint8)
    return [
        memory[start : start + size].view(kind).reshape(shape)
        for (shape, kind), start, size in zip(wanted, starts, sizes, strict=False)
    ]


@lru_cache(maxsize=64)
def _row_taps(span: Span) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """Upper row, lower row, and the weights ``[rows, 1]`` of both in 1/2048."""
    first, second, weight = _taps(span)
    return first, second, (2048 - weight)[:, None], weight[:, None]


@lru_cache(maxsize=64)
def _column_taps(span: Span) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int16], NDArray[np.int16]]:
    """Left and right as positions in a row of interleaved channels, and the weight of the right one as q and r."""
    first, second, weight = _taps(span)
    # Unlike rows, columns at the edge are not a mixture of one pixel with itself, which would truncate once more.
    weight = np.where(first == second, 0, weight)
    channel = np.tile(np.arange(3), span.stop - span.start)
    left, right, per_channel = (
        3 * np.repeat(first, 3) + channel,
        3 * np.repeat(second, 3) + channel,
        np.repeat(weight, 3),
    )
    return left, right, (per_channel >> 4).astype(np.int16), (per_channel & 15).astype(np.int16)


def _taps(span: Span) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32]]:
    """The two source pixels beside the centre of each wanted pixel, and the weight of the second in 1/2048."""
    position = ((np.arange(span.start, span.stop) + 0.5) * (span.source / span.resized) - 0.5).astype(np.float32)
    first = np.floor(position)
    weight = np.rint((position - first) * np.float32(2048)).astype(np.int32)
    index = first.astype(np.intp)
    return index.clip(0, span.source - 1), (index + 1).clip(0, span.source - 1), weight
