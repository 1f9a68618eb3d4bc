"""Images with a class for every pixel, wherever they come from: what PNG files, VOC, Cityscapes and COCO all become."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.mask_classes import Mask, MaskClasses
from autotimm.data.mask_files import MaskError, read_mask
from autotimm.runtime import rle
from autotimm.runtime.errors import ImageError
from autotimm.runtime.images import image_size


@dataclass(frozen=True, eq=False)
class PaintedMask:
    """The objects of one image, of which a mask is painted: the larger ones first, so that small ones lie on top."""

    size: tuple[int, int]
    """``(height, width)``"""
    objects: tuple[dict[str, Any], ...]
    """COCO's compressed RLE."""
    labels: tuple[int, ...]
    """Class index of each."""

    def paint(self, classes: MaskClasses) -> Mask:
        """``[h, w]``; 0, the background, where no object is."""
        painted = np.zeros(self.size, dtype=classes.dtype)
        areas = [int(rle.decompress(one["counts"])[1::2].sum()) for one in self.objects]
        for index in sorted(range(len(areas)), key=lambda index: -areas[index]):
            painted[rle.decode(self.objects[index])] = self.labels[index]
        return painted


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """One image and its mask."""

    path: Path
    mask: Path | PaintedMask


@dataclass(frozen=True, eq=False)
class MaskedData:
    """The images of one split."""

    source: Path
    """The folder or file of the masks, for messages."""
    classes: MaskClasses
    images: tuple[MaskedImage, ...]

    def load_mask(self, index: int) -> Mask:
        """The mask of an image at source size.

        Raises:
            MaskError: it cannot be read, or has values of no class.
        """
        return load_mask(self.images[index], self.classes)


class MaskedSamples(Sequence[tuple[Path, Any]]):
    """Each image's path and its mask, which is read when it is looked at.

    Args:
        data: the images.
        classes_of: for a model whose classes are in another order, its index of each class of the data.
    """

    def __init__(self, data: MaskedData, classes_of: Sequence[int] | None = None) -> None:
        self.data, self.classes_of = data, classes_of

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.data.images[index].path, self.truth(index)

    def truth(self, index: int) -> Mask:
        """The mask of an image, in the model's classes."""
        mask = self.data.load_mask(index)
        if self.classes_of is None:
            return mask
        labelled = mask != self.data.classes.ignore_index
        own = np.array(self.classes_of)[np.where(labelled, mask, 0)]
        # a model of more than 256 classes may have one of a few that the data know beyond what their masks can hold
        dtype = mask.dtype if max(self.classes_of) <= 255 else np.dtype(np.int32)
        return np.where(labelled, own, self.data.classes.ignore_index).astype(dtype)


def load_mask(image: MaskedImage, classes: MaskClasses) -> Mask:
    """The mask of an image at source size.

    Raises:
        MaskError: it cannot be read, or has values of no class.
    """
    return image.mask.paint(classes) if isinstance(image.mask, PaintedMask) else read_mask(image.mask, classes)


def usable(images: Sequence[MaskedImage], classes: MaskClasses, bad: BadAnnotations) -> tuple[MaskedImage, ...]:
    """The images whose masks can be used; every mask is read for it, several at a time.

    Args:
        images: all that there are.
        classes: what the masks may hold.
        bad: takes the others.
    """
    kept = []
    for image, problem in zip(images, _problems(images, classes), strict=True):
        if problem is None:
            kept.append(image)
        else:
            bad.add(*problem)
    return tuple(kept)


def _problems(images: Sequence[MaskedImage], classes: MaskClasses) -> Iterator[tuple[str, str] | None]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # decoding leaves Python's lock
        yield from pool.map(lambda image: _problem(image, classes), images)


def _problem(image: MaskedImage, classes: MaskClasses) -> tuple[str, str] | None:
    """Why an image cannot be used: the kind, and this one; None where it can."""
    try:
        height, width = image_size(image.path)
        mask = load_mask(image, classes)
    except MaskError as error:
        return error.kind, f"{error.path.name} ({error.detail})"
    except ImageError as error:
        return "images that cannot be read", str(error)
    if mask.shape != (height, width):
        return "masks of another size than their image", _sizes(image, mask, (height, width))
    if (mask == classes.ignore_index).all():
        return "masks without a labelled pixel", image.path.name
    return None


def _sizes(image: MaskedImage, mask: Mask, size: tuple[int, int]) -> str:
    turned = ", which is the image as it is stored: its EXIF data turn it" if mask.shape == size[::-1] else ""
    return f"{image.path.name} (image {size[1]} x {size[0]}, mask {mask.shape[1]} x {mask.shape[0]}{turned})"


def check_mask_size(path: Path, mask: Mask, size: tuple[int, int]) -> None:
    """Refuse a mask that is not as large as the upright image.

    Raises:
        MaskError: naming both sizes.
    """
    if mask.shape != size:
        detail = f"image {size[1]} x {size[0]}, mask {mask.shape[1]} x {mask.shape[0]}"
        raise MaskError(path, "masks of another size than their image", detail)
