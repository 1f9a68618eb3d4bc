"""Masks as files: numbers, palettes or colours, to class indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.data.mask_classes import Mask, MaskClasses
from autotimm.runtime.drawing import Color
from autotimm.runtime.errors import DataError, one_line

_NUMBERS = {"L", "P", "1", "I", "I;16", "I;16B", "I;16L"}
"""Pillow's modes with one number a pixel; of a palette it is the index."""
_SHOWN = 5


class MaskError(DataError):
    """A mask that cannot be used.

    Args:
        path: of the mask.
        kind: what is wrong with it, in the plural: ``masks that cannot be read``.
        detail: of this one.
    """

    def __init__(self, path: Path, kind: str, detail: str) -> None:
        super().__init__(f"{path}: is among {kind} ({detail})")
        self.path, self.kind, self.detail = path, kind, detail


def read_mask(path: Path, classes: MaskClasses) -> Mask:
    """Decode a mask. Its pixels are taken as they are stored: what tools write has no orientation.

    Args:
        path: of a lossless image: class numbers as grey levels of 8 or 16 bits or as indices of a palette, or, where
            ``classes`` has colours, a picture in these.
        classes: what numbers or colours stand for.

    Raises:
        MaskError: it cannot be read, or has numbers or colours that stand for nothing.
    """
    try:
        with Image.open(path) as image:
            if classes.colors is not None:
                return _from_colors(path, np.asarray(image.convert("RGB")), classes)
            values = _numbers(path, image)
    except MaskError:
        raise
    except FileNotFoundError as error:
        raise MaskError(path, "masks that are not there", "no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise MaskError(path, "masks that cannot be read", one_line(error)[:160]) from error
    return _from_numbers(path, values, classes)


def palette_of(path: Path, count: int) -> tuple[Color, ...] | None:
    """The first colours of a paletted file; None where it has fewer, or no palette."""
    try:
        with Image.open(path) as image:
            levels = image.getpalette() if image.mode == "P" else None
    except Exception:  # what is wrong with it is said where it is read
        return None
    if levels is None or len(levels) < 3 * count:
        return None
    return tuple((levels[at], levels[at + 1], levels[at + 2]) for at in range(0, 3 * count, 3))


def _numbers(path: Path, image: Image.Image) -> NDArray[Any]:
    if image.mode in _NUMBERS:
        return np.asarray(image).astype(np.uint8) if image.mode == "1" else np.asarray(image)
    channels = np.asarray(image.convert("RGB"))
    if (channels == channels[..., :1]).all():  # grey, written as colours
        return channels[..., 0]
    raise MaskError(
        path,
        "masks in colours",
        f"mode {image.mode}; class_mapping says which colour is which class: '128, 0, 0': name",
    )


def _from_numbers(path: Path, values: NDArray[Any], classes: MaskClasses) -> Mask:
    known, table = classes.known(), classes.table()
    highest = int(values.max(initial=0))
    if highest >= len(known) or values.min(initial=0) < 0 or not known[values].all():
        there = np.unique(values)
        inside = (there >= 0) & (there < len(known))
        wrong = [int(number) for number in there if number < 0 or number >= len(known)]
        wrong += [int(number) for number in there[inside] if not known[number]]
        raise MaskError(path, "masks with numbers of no class", _some(sorted(wrong)))
    mask: Mask = table.astype(classes.dtype)[values]
    return mask


def _from_colors(path: Path, pixels: NDArray[np.uint8], classes: MaskClasses) -> Mask:
    assert classes.colors is not None
    packed = pixels.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    keys = np.array(sorted((r << 16) + (g << 8) + b for r, g, b in classes.colors))
    values = np.array([classes.colors[(key >> 16, key >> 8 & 255, key & 255)] for key in keys.tolist()])
    place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
    wrong = keys[place] != packed
    if wrong.any():
        found = [f"{key >> 16}, {key >> 8 & 255}, {key & 255}" for key in np.unique(packed[wrong]).tolist()]
        raise MaskError(path, "masks with colours of no class", _some(found, "; "))
    mask: Mask = values.astype(classes.dtype)[place]
    return mask


def _some(found: list[Any], between: str = ", ") -> str:
    return between.join(map(str, found[:_SHOWN])) + (f"{between}..." if len(found) > _SHOWN else "")
