"""The geometric half of :class:`Preprocess` on the host: resize, then pad or crop, in uint8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.bilinear import Span, resize_bilinear
from autotimm.runtime.preprocess import Placement, Preprocess

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_WHOLE_OVER_PART = 32
"""Scaled pixels over wanted pixels up to which :func:`_antialiased` scales the whole: photographs stay under 2.5,
panoramas of 20:1 under 26."""


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
        resize_bilinear(image, rows, columns, window)
    return frame, placement


def _visible(placement: Placement, size: tuple[int, int], axis: int) -> Span:
    """The part of the scaled image that lies inside the frame."""
    resized, offset = placement.resized_size[axis], placement.offset[axis]
    return Span(placement.source_size[axis], resized, max(0, -offset), min(resized, size[axis] - offset))


def _antialiased(image: NDArray[np.uint8], rows: Span, columns: Span, resample: Image.Resampling) -> NDArray[np.uint8]:
    """Pillow's filter, which widens as the image shrinks.

    The whole is scaled and then cropped, as training does. Only where the whole would dwarf the wanted part (extreme
    aspect ratios) is the box alone computed.
    """
    height, width = rows.stop - rows.start, columns.stop - columns.start
    whole = Image.fromarray(image)
    if rows.resized * columns.resized <= _WHOLE_OVER_PART * height * width:
        scaled = _columns_first(whole, (rows.resized, columns.resized), resample, (0, 0, *whole.size))
        return np.asarray(scaled.crop((columns.start, rows.start, columns.stop, rows.stop)))
    left, right = (edge * columns.source / columns.resized for edge in (columns.start, columns.stop))
    top, bottom = (edge * rows.source / rows.resized for edge in (rows.start, rows.stop))
    return np.asarray(_columns_first(whole, (height, width), resample, (left, top, right, bottom)))


def _columns_first(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """Scale a box of an image to ``(height, width)``, along the rows and then along the columns.

    Two calls, since Pillow 13 chooses by the sizes which axis comes first, and earlier versions begin with the rows:
    where the filter overshoots and is clipped, the order was seen to move single pixels by 15 grey levels. So the
    pixels do not depend on the version, and a graph can follow.
    """
    height, width = size
    left, top, right, bottom = box
    narrow = image.resize((width, image.height), resample, (left, 0, right, image.height))
    return narrow.resize((width, height), resample, (0, top, width, bottom))


def _nearest(span: Span) -> NDArray[np.intp]:
    """The source pixel under the centre of each wanted pixel."""
    return (2 * np.arange(span.start, span.stop) + 1) * span.source // (2 * span.resized)
