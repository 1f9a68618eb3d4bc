"""Labelled images wherever they come from: what a folder, a table and a torchvision set all become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.images import load_image

Labels = NDArray[np.int64] | NDArray[np.float32]
"""int64 ``[N]``; for multi-label data float32 ``[N, C]`` of 0 and 1."""


class Images(Protocol):
    """A number of images."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """By which a person finds the image: its path, if it has one."""

    def source(self, index: int) -> Path | NDArray[np.uint8]:
        """What a predictor takes: the path, or the pixels of an image that has none."""

    def load(self, index: int) -> NDArray[np.uint8]:
        """RGB uint8 ``[h, w, 3]``.

        Raises:
            ImageError: it cannot be decoded.
        """


class ImageFiles:
    """Images by their paths."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def source(self, index: int) -> Path:
        """The path."""
        return self.paths[index]

    def load(self, index: int) -> NDArray[np.uint8]:
        """RGB uint8 ``[h, w, 3]``."""
        return load_image(self.paths[index])


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split: images and their classes."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class LabelledData:
    """A data set: its classes and splits."""

    class_names: tuple[str, ...]
    train: LabelledImages
    """Empty where there are only images to validate on."""
    val: LabelledImages
    read_test: Callable[[], LabelledImages | None]
    """The split that is kept for the end, None where there is none; read when it is wanted."""


class SampleList(Sequence[tuple[Path | NDArray[np.uint8], Any]]):
    """Images as a predictor takes them, each with its truth; pixels are only loaded for those that are looked at."""

    def __init__(self, split: LabelledImages) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        label = self.split.labels[position]
        return self.split.images.source(position), int(label) if label.ndim == 0 else label
