"""Which class a number or a colour in a mask file stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.drawing import Color
from autotimm.runtime.errors import ConfigError

Mask = NDArray[np.integer]
"""``[h, w]`` class indices, and the ignore index where nothing is known: uint8, or int32 where they do not fit."""


@dataclass(frozen=True)
class MaskClasses:
    """The classes of a data set, and how its mask files write them.

    Raises:
        ConfigError: the ignore index is that of a class, or a class has no name.
    """

    class_names: tuple[str, ...]
    ignore_index: int = 255
    """In masks in memory; also in files whose numbers are class indices."""
    ids: Mapping[int, int] | None = None
    """Class index, or the ignore index, of each number in the files. Absent: the numbers are class indices."""
    colors: Mapping[Color, int] | None = None
    """The same of each colour, for files that are pictures."""
    palette: tuple[Color, ...] | None = None
    """A colour for each class, where the data has them."""

    def __post_init__(self) -> None:
        if 0 <= self.ignore_index < len(self.class_names):
            raise ConfigError(
                f"ignore_index is {self.ignore_index}, which is the class {self.class_names[self.ignore_index]!r}"
            )

    @property
    def dtype(self) -> type[np.uint8] | type[np.int32]:
        """Of masks in memory."""
        return np.uint8 if 0 <= self.ignore_index <= 255 and len(self.class_names) <= 256 else np.int32

    def table(self) -> NDArray[np.int64]:
        """The class index, or the ignore index, of each number; see :meth:`known`."""
        pairs = self._pairs()
        found = np.full(max(256, *(number + 1 for number in pairs)), -1, dtype=np.int64)
        for number, index in pairs.items():
            found[number] = index
        return found

    def known(self) -> NDArray[np.bool_]:
        """Whether each number stands for something."""
        pairs = self._pairs()
        found = np.zeros(max(256, *(number + 1 for number in pairs)), dtype=np.bool_)
        found[list(pairs)] = True
        return found

    def _pairs(self) -> dict[int, int]:
        if self.ids is not None:
            return dict(self.ids)
        pairs = {index: index for index in range(len(self.class_names))}
        return pairs if self.ignore_index < 0 else {**pairs, self.ignore_index: self.ignore_index}


def mapped_classes(mapping: Mapping[Any, Any], class_names: Sequence[str] | None, ignore_index: int) -> MaskClasses:
    """Classes from what a user says about the numbers or the colours of the mask files.

    Args:
        mapping: from a number, or an RGB colour (``"128, 64, 128"`` or three numbers), to the name of its class;
            ``None`` for pixels to ignore. Several may be of one class.
        class_names: the classes in their order; as they come in the mapping where absent.
        ignore_index: of masks in memory.

    Raises:
        ConfigError: a key that is neither, both kinds of keys, or a class that is not among the names.
    """
    named = [name for name in mapping.values() if name is not None]
    names = tuple(class_names) if class_names is not None else tuple(dict.fromkeys(map(str, named)))
    for name in named:
        if str(name) not in names:
            raise ConfigError.unknown("class (in class_mapping)", str(name), names)
    indices = {name: index for index, name in enumerate(names)}
    ids: dict[int, int] = {}
    colors: dict[Color, int] = {}
    palette: dict[int, Color] = {}
    for key, name in mapping.items():
        index = ignore_index if name is None else indices[str(name)]
        written = _number_or_color(key)
        if isinstance(written, int):
            ids[written] = index
        else:
            colors[written] = index
            palette.setdefault(index, written)
    if ids and colors:
        raise ConfigError("class_mapping has numbers and colours; the files of one data set have one of them")
    full = all(index in palette for index in range(len(names)))
    own = tuple(palette[index] for index in range(len(names))) if full and names else None
    return MaskClasses(names, ignore_index, ids or None, colors or None, own)


def _number_or_color(key: Any) -> int | Color:
    parts: list[Any] = key.split(",") if isinstance(key, str) else list(key) if isinstance(key, list | tuple) else [key]
    try:
        numbers = [int(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) == 1 and 0 <= numbers[0] <= 65535:
        return numbers[0]
    if len(numbers) == 3 and all(0 <= number <= 255 for number in numbers):
        return numbers[0], numbers[1], numbers[2]
    raise ConfigError(
        f"class_mapping has the key {key!r}, but a key is a number in the mask files, 0..65535, or an RGB colour such "
        "as '128, 64, 128'"
    )


VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Of Pascal VOC, in the order of its numbers; 255 is the border around objects, which is ignored."""

_CITYSCAPES: dict[str, tuple[int, Color]] = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
"""The 19 classes of the benchmark with their numbers in ``labelIds`` files (cityscapesScripts, labels.py)."""
_CITYSCAPES_IDS = 34


def cityscapes_classes(ignore_index: int) -> MaskClasses:
    """The 19 classes of the benchmark; the other numbers of its files are ignored, as there."""
    ids = {**dict.fromkeys(range(_CITYSCAPES_IDS), ignore_index), 255: ignore_index}
    ids.update({number: index for index, (number, _) in enumerate(_CITYSCAPES.values())})
    return MaskClasses(tuple(_CITYSCAPES), ignore_index, ids, palette=tuple(color for _, color in _CITYSCAPES.values()))
