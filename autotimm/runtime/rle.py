"""Run-length encoding of masks as COCO files have it, in numpy.

A mask is read column by column; the counts say how many zeros, then how many ones, then zeros again and so on. In the
compressed form each count (from the fourth on, its difference from the count two before) is written in groups of five
bits, lowest first, as printable characters from ``0`` on (``rleToString`` of pycocotools' maskApi.c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import DataError

_MORE, _SIGN, _BITS, _ZERO = 0x20, 0x10, 0x1F, ord("0")


def encode(pixels: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """The mask of one object as COCO's compressed RLE.

    Args:
        pixels: ``[h, w]``, the part of the image that holds the object.
        top: row of the image where that part begins.
        left: column of the image where that part begins.
        size: ``(height, width)`` of the image.

    Returns:
        ``{"size": [height, width], "counts": text}``, equal to pycocotools' encoding of the whole mask.
    """
    return {"size": [int(size[0]), int(size[1])], "counts": compress(run_lengths(pixels, top, left, size))}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask ``[height, width]`` of a COCO RLE, compressed (text or bytes) or not (a list of counts).

    Raises:
        DataError: the counts cannot be read, or are not those of a mask of this size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"an RLE mask must have 'size' [height, width] and 'counts', but is {str(rle)[:80]}") from error
    lengths = read_counts(counts)
    if not fills(lengths, (height, width)):
        raise DataError(
            f"the counts of an RLE mask add up to {lengths.sum()} pixels, but its size {height} x {width} (height x "
            f"width) has {height * width}"
        )
    values = np.zeros(len(lengths), bool)
    values[1::2] = True
    mask: NDArray[np.bool_] = np.repeat(values, lengths).reshape(width, height).T
    return mask


def read_counts(counts: str | bytes | Sequence[int]) -> NDArray[np.int64]:
    """The counts of an RLE, compressed (text or bytes) or not, as numbers.

    Raises:
        DataError: they cannot be read.
    """
    if isinstance(counts, str | bytes):
        return decompress(counts)
    try:
        return np.asarray(counts, dtype=np.int64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the counts of an RLE mask must be text or whole numbers, but are {str(counts)[:80]}"
        ) from error


def fills(lengths: NDArray[np.int64], size: tuple[int, int]) -> bool:
    """Whether counts are those of a mask of this ``(height, width)``: none negative, and its pixels in all."""
    pixels = size[0] * size[1]
    # each by itself too: the sum of damaged counts may run over 64 bits and come out right
    return min(size) >= 0 and bool(((lengths >= 0) & (lengths <= pixels)).all() and lengths.sum() == pixels)


def run_lengths(pixels: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """The uncompressed counts, zeros first; arguments as for :func:`encode`."""
    height, width = size
    rows, columns = pixels.shape
    if rows < height:
        # A zero after each column ends its last run; where the part has all rows, a run may go on in the next column.
        padded = np.zeros((columns, rows + 1), bool)
        padded[:, :rows] = pixels.T
    else:
        padded = np.ascontiguousarray(pixels.T)
    flat = np.concatenate([[False], padded.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    column, row = np.divmod(changes, padded.shape[1] or 1)
    ends = (left + column) * height + top + row
    total = height * width
    borders = np.concatenate([[0], ends, [total] if not len(ends) or ends[-1] < total else []])
    return borders[1:].astype(np.int64) - borders[:-1].astype(np.int64)


def compress(lengths: NDArray[np.int64]) -> str:
    """Counts as COCO's text."""
    rest = lengths.copy()
    rest[3:] -= lengths[1:-2]
    groups = []  # the first five bits of each count, the second five bits, ...
    going = np.ones(len(rest), bool)
    while going.any():
        low = rest & _BITS
        rest >>= 5
        more = going & np.where(low & _SIGN, rest != -1, rest != 0)
        groups.append(np.where(going, low + _MORE * more + _ZERO, 0))
        going = more
    letters = np.stack(groups, axis=1).ravel().astype(np.uint8)
    return letters[letters > 0].tobytes().decode("ascii")


def decompress(text: str | bytes) -> NDArray[np.int64]:
    """The inverse of :func:`compress`.

    Raises:
        DataError: the text is not one that :func:`compress` or pycocotools writes.
    """
    raw = text.encode("utf-8") if isinstance(text, str) else text
    letters = np.frombuffer(raw, np.uint8).astype(np.int64) - _ZERO
    ends = np.flatnonzero((letters & _MORE) == 0)
    readable = len(ends) and letters.min() >= 0 and letters.max() < 2 * _MORE
    if not readable or ends[-1] != len(letters) - 1:  # the last letter says that no more follow
        raise DataError(f"the counts of an RLE mask are not readable: {raw[:40]!r}")
    starts = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if position.max() > 11:  # 60 bits, far more than any image has pixels
        raise DataError(f"the counts of an RLE mask are not readable: {raw[:40]!r}")
    values = np.add.reduceat((letters & _BITS) << (5 * position), starts)
    negative = (letters[ends] & _SIGN) != 0
    values -= np.where(negative, 1 << (5 * (position[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
