"""Decoded images kept for a while, since composed training images need each of them several times."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from autotimm.data.transforms import Pixels


class ImageCache:
    """The images that were used last, up to a number of bytes; each process has its own.

    Args:
        limit: in bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes."""
        self._images: OrderedDict[int, Pixels] = OrderedDict()

    def get(self, index: int, load: Callable[[int], Pixels]) -> Pixels:
        """An image, which must not be written to; loaded where it is not there."""
        if index in self._images:
            self._images.move_to_end(index)
            return self._images[index]
        image = load(index)
        if image.nbytes <= self.limit:
            self._images[index] = image
            self.held += image.nbytes
            while self.held > self.limit:
                self.held -= self._images.popitem(last=False)[1].nbytes
        return image

    def __len__(self) -> int:
        return len(self._images)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes that are spawned: empty."""
        return {"limit": self.limit, "held": 0, "_images": OrderedDict()}
