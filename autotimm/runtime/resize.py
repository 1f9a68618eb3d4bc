"""The geometric half of :class:`Preprocess` on the host: resize, then pad or crop, in uint8."""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.preprocess import Placement, Preprocess

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_WHOLE_OVER_PART = 4
"""Scaled pixels over wanted pixels up to which :func:`_antialiased` scales the whole; photographs stay under 2.5."""

_CHUNK = 1 << 17
"""Numbers per block of rows in :func:`_bilinear`: the scratch of a block, at most 2 MB, stays in cache."""


class _Span(NamedTuple):
    """One axis: the source has ``source`` pixels, is scaled to ``resized``, of which ``start:stop`` are wanted."""

    source: int
    resized: int
    start: int
    stop: int


def fit_image(image: NDArray[np.uint8], preprocess: Preprocess) -> tuple[NDArray[np.uint8], Placement]:
    """Bring an image to the size of the network input.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        preprocess: the size, the fit and the filter to follow.

    Returns:
        RGB uint8 ``[h, w, 3]``, C-contiguous (``image`` itself where nothing had to be done), and where the image lies
        in it.
    """
    placement = preprocess.place(image.shape[0], image.shape[1])
    rows, columns = (_visible(placement, preprocess.size, axis) for axis in (0, 1))
    extent = rows.stop - rows.start, columns.stop - columns.start
    covers = extent == preprocess.size
    unscaled = placement.resized_size == placement.source_size
    if covers and unscaled and extent == placement.source_size:
        return np.ascontiguousarray(image), placement
    frame = np.empty((*preprocess.size, 3), np.uint8)
    if not covers:
        frame.fill(preprocess.pad_value)
    top, left = rows.start + placement.offset[0], columns.start + placement.offset[1]
    window = frame[top : top + extent[0], left : left + extent[1]]
    if unscaled:
        window[...] = image[rows.start : rows.stop, columns.start : columns.stop]
    elif preprocess.interpolation == "nearest":
        window[...] = image[_nearest(rows)[:, None], _nearest(columns)]
    elif preprocess.antialias:
        window[...] = _antialiased(image, rows, columns, _RESAMPLING[preprocess.interpolation])
    else:
        _bilinear(image, rows, columns, window)
    return frame, placement


def _visible(placement: Placement, size: tuple[int, int], axis: int) -> _Span:
    """The part of the scaled image that lies inside the frame."""
    resized, offset = placement.resized_size[axis], placement.offset[axis]
    return _Span(placement.source_size[axis], resized, max(0, -offset), min(resized, size[axis] - offset))


def _antialiased(
    image: NDArray[np.uint8], rows: _Span, columns: _Span, resample: Image.Resampling
) -> NDArray[np.uint8]:
    """Pillow's filter, which widens as the image shrinks.

    The whole is scaled and then cropped, as training does: Pillow 13 chooses by the sizes which axis it resamples
    first, and with ``box=`` it may choose the other one, which was seen to move single pixels by 15 grey levels. Only
    where the whole would dwarf the wanted part (extreme aspect ratios) is the box alone computed.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    whole = Image.fromarray(image)
    if rows.resized * columns.resized <= _WHOLE_OVER_PART * height * width:
        scaled = whole.resize((columns.resized, rows.resized), resample)
        return np.asarray(scaled.crop((columns.start, rows.start, columns.stop, rows.stop)))
    left, right = (edge * columns.source / columns.resized for edge in (columns.start, columns.stop))
    top, bottom = (edge * rows.source / rows.resized for edge in (rows.start, rows.stop))
    return np.asarray(whole.resize((width, height), resample, box=(left, top, right, bottom)))


def _nearest(span: _Span) -> NDArray[np.intp]:
    """The source pixel under the centre of each wanted pixel."""
    return (2 * np.arange(span.start, span.stop) + 1) * span.source // (2 * span.resized)


def _bilinear(image: NDArray[np.uint8], rows: _Span, columns: _Span, out: NDArray[np.uint8]) -> None:
    """Bilinear between the two nearest pixels of each axis whatever the scale: half-pixel centres, edges repeated.

    That is OpenCV's ``INTER_LINEAR`` and ``torch.nn.functional.interpolate(mode="bilinear")``. Integers keep it exact
    to less than one grey level: rows are mixed with 8-bit weights into 16 bits, then columns with 16-bit weights into
    32 bits, and rounded once, at the end. Of the formulations measured with numpy and Pillow this was the fastest.

    Args:
        image: ``[H, W, 3]``.
        rows: the wanted rows.
        columns: the wanted columns.
        out: ``[rows, columns, 3]``, written.
    """
    upper, lower, mix_lower = _row_taps(rows)
    left, right, mix_left, mix_right = _column_taps(columns)
    mix_upper = np.uint16(256) - mix_lower
    flat = np.ascontiguousarray(image).reshape(rows.source, columns.source * 3)
    step = max(1, min(len(upper), _CHUNK // max(flat.shape[1], len(left))))
    left_mixed, right_mixed, gathered, upper_mixed, lower_mixed = _scratch(
        ((step, len(left)), np.uint32),
        ((step, len(left)), np.uint32),
        ((step, len(left)), np.uint16),
        ((step, flat.shape[1]), np.uint16),
        ((step, flat.shape[1]), np.uint16),
    )
    for start in range(0, len(upper), step):
        block = slice(start, min(start + step, len(upper)))
        count = block.stop - block.start
        mixed, other = upper_mixed[:count], lower_mixed[:count]
        mixed[...] = flat[upper[block]]
        other[...] = flat[lower[block]]
        mixed *= mix_upper[block]
        other *= mix_lower[block]
        mixed += other
        pair, total, addend = gathered[:count], left_mixed[:count], right_mixed[:count]
        # The indices are in range; mode="clip" only spares take() a copy of its output.
        mixed.take(left, axis=1, out=pair, mode="clip")
        total[...] = pair
        total *= mix_left
        mixed.take(right, axis=1, out=pair, mode="clip")
        addend[...] = pair
        addend *= mix_right
        total += addend
        total += np.uint32(1 << 23)
        total >>= np.uint32(24)
        out[block] = total.reshape(count, -1, 3)


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
def _row_taps(span: _Span) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint16]]:
    """Upper row, lower row, and the weight ``[rows, 1]`` of the lower one in 1/256."""
    upper, lower, weight = _taps(span, 256)
    return upper, lower, weight.astype(np.uint16)[:, None]


@lru_cache(maxsize=64)
def _column_taps(span: _Span) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint32], NDArray[np.uint32]]:
    """Left and right, as positions in a row of interleaved channels, and the weights of both in 1/65536."""
    left, right, weight = (np.repeat(values, 3) for values in _taps(span, 65536))
    channel = np.tile(np.arange(3), span.stop - span.start)
    weight_right = weight.astype(np.uint32)
    return 3 * left + channel, 3 * right + channel, np.uint32(65536) - weight_right, weight_right


def _taps(span: _Span, unit: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]:
    """The two source pixels beside the centre of each wanted pixel, and the weight of the second in 1/``unit``."""
    # The centre (i + 1/2) * source / resized - 1/2, in whole units of 1 / (2 * resized): no rounding to go wrong.
    position = (2 * np.arange(span.start, span.stop) + 1) * span.source - span.resized
    position = np.clip(position, 0, 2 * span.resized * (span.source - 1))
    first, rest = np.divmod(position, 2 * span.resized)
    return first, np.minimum(first + 1, span.source - 1), (rest * unit + span.resized) // (2 * span.resized)
