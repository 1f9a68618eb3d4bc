"""The official YOLOX augmentation: its settings for each size, what it does to an image, and what changes when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from autotimm.data.affine import random_affine
from autotimm.data.box_mixup import mixup
from autotimm.data.box_transforms import mirrored_boxes, visible_boxes
from autotimm.data.boxed import BoxedPixels
from autotimm.data.hsv import jitter_hsv
from autotimm.data.mosaic import mosaic
from autotimm.data.transforms import mirrored
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

STEP = 32
"""Sides of the network input are multiples of it: the largest stride."""


@dataclass(frozen=True)
class YOLOXAugmentation:
    """Settings of the official recipe. The defaults are those of YOLOX-s, m, l and x.

    Raises:
        ConfigError: impossible ones.
    """

    mosaic: float = 1.0
    """How often four images are put together and warped. Otherwise an image is only jittered and mirrored."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Of the mosaic over the size in evaluation."""
    rotation: float = 10.0
    """Degrees, either way."""
    shear: float = 2.0
    """Degrees, either way, along each axis."""
    translation: float = 0.1
    """Of the middle, over the size of the network input."""
    mixup: float = 1.0
    """How often a mosaic with objects is mixed with one more image."""
    mixup_scale: tuple[float, float] = (0.5, 1.5)
    """Of that image, over the size in evaluation."""
    hsv: tuple[int, int, int] = (5, 30, 30)
    """Most that is added to hue (steps of 2 degrees), saturation and value (of 255)."""
    flip: float = 0.5
    """How often an image is mirrored."""
    multi_scale: tuple[int, int] | None = (480, 800)
    """Least and greatest height of training batches at ``base_size``, in proportion at another size; None for one size
    only."""
    base_size: int = 640
    """Height in evaluation that ``multi_scale`` is for."""
    resize_every: int = 10
    """Batches after which the size changes."""
    total_epochs: float = 300.0
    """Length of training that the next one is for; it is shorter in proportion in a shorter training."""
    no_aug_epochs: float = 15.0
    """Epochs at the end without mosaic and mixup."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), field.default))
        for name in ("mosaic", "mixup", "flip"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} of YOLOXAugmentation is {getattr(self, name)}, but must be in 0..1")
        for name in ("scale", "mixup_scale", "multi_scale"):
            limits = getattr(self, name)
            if limits is not None and not 0 < limits[0] <= limits[1]:
                raise ConfigError(f"{name} of YOLOXAugmentation is {limits}, but must be positive, and rise")
        for name in ("rotation", "shear", "translation", "hsv", "no_aug_epochs"):
            least = getattr(self, name)
            if min(least if isinstance(least, tuple) else (least,)) < 0:
                raise ConfigError(f"{name} of YOLOXAugmentation is {least}, but must not be negative")
        if self.total_epochs <= 0:
            raise ConfigError(f"total_epochs of YOLOXAugmentation is {self.total_epochs}, but must be positive")
        if self.resize_every < 1 or self.base_size < STEP:
            raise ConfigError(f"resize_every of YOLOXAugmentation must be at least 1, and base_size {STEP}")

    @classmethod
    def of_size(cls, name: str) -> YOLOXAugmentation:
        """The official settings of ``yolox-nano`` and so on (the official experiment files)."""
        if name not in ("yolox-nano", "yolox-tiny"):
            return cls()
        small = cls(scale=(0.5, 1.5), mixup=0.0, multi_scale=(320, 640), base_size=416)
        return replace(small, mosaic=0.5) if name == "yolox-nano" else small

    def changed(self, settings: Mapping[str, Any]) -> YOLOXAugmentation:
        """These settings with some others, as a configuration file may have them: lists stand for pairs.

        Raises:
            ConfigError: one that is not there (near matches are named), or cannot have this value.
        """
        known = [field.name for field in fields(self)]
        for name in settings:
            if name not in known:
                raise ConfigError.unknown("setting of the yolox augmentation", str(name), known)
        return replace(self, **settings)


def _checked(name: str, value: Any, default: Any) -> Any:
    """A value of the type of its default: numbers, or as many of them in a tuple or a list."""
    if name == "multi_scale" and value is None:
        return None
    wanted = default if isinstance(default, tuple) else (default,)
    given = tuple(value) if isinstance(default, tuple) and isinstance(value, tuple | list) else (value,)
    whole = all(isinstance(one, int) for one in wanted)
    if len(given) != len(wanted) or not all(
        isinstance(one, int if whole else int | float) and not isinstance(one, bool) for one in given
    ):
        kind = "whole number" if whole else "number"
        expected = f"a {kind}" if len(wanted) == 1 else f"{len(wanted)} {kind}s, such as {list(wanted)}"
        raise ConfigError(f"{name} of YOLOXAugmentation is {value!r}, but must be {expected}")
    if not all(map(math.isfinite, given)):
        raise ConfigError(f"{name} of YOLOXAugmentation is {value!r}, but must be finite")
    return given if isinstance(default, tuple) else value


class Partners(NamedTuple):
    """The images that one may be put together with."""

    total: int
    """All of them, by index."""
    annotated: Sequence[int]
    """Those with boxes; only these are mixed in."""


class BatchSetting(NamedTuple):
    """What is the same for all images of a batch."""

    size: tuple[int, int]
    """``(height, width)``."""
    composed: bool
    """Whether there is mosaic and mixup."""


@dataclass(frozen=True)
class YOLOXPlan:
    """The setting of each batch of a training: a function of the seed, the epoch and the place in it."""

    recipe: YOLOXAugmentation
    size: tuple[int, int]
    """``(height, width)`` in evaluation."""
    seed: int
    batches: Callable[[], int]
    """In an epoch; asked when there are batches, since a trainer knows it only then."""
    plain_from: Callable[[], float]
    """The epoch, not always a whole one, from which there is no mosaic; asked likewise."""
    largest_only: bool = False
    """Whether all batches are as large as the largest that can come: to see what fits into memory."""

    def __call__(self, epoch: int, batch: int) -> BatchSetting:
        """The setting of a batch, both counted from 0."""
        per_epoch = max(1, self.batches())
        composed = epoch + batch / per_epoch < self.plain_from()
        block = (epoch * per_epoch + batch) // self.recipe.resize_every
        return BatchSetting(self.largest if self.largest_only else self._size_of(block), composed)

    @property
    def largest(self) -> tuple[int, int]:
        """``(height, width)`` of the largest batches that can come."""
        if self.recipe.multi_scale is None:
            return self.size
        height, width = self._scaled(self._steps()[1])
        return max(height, self.size[0]), max(width, self.size[1])

    def _size_of(self, block: int) -> tuple[int, int]:
        """The size of one run of batches; the first has that of evaluation, as the official training begins."""
        if self.recipe.multi_scale is None or block == 0:
            return self.size
        low, high = self._steps()
        return self._scaled(int(np.random.default_rng((self.seed, block)).integers(low, high + 1)))

    def _steps(self) -> tuple[int, int]:
        """Least and greatest height, in steps."""
        low, high = self.recipe.multi_scale or (self.recipe.base_size, self.recipe.base_size)
        per_step = self.size[0] / self.recipe.base_size / STEP
        return max(1, round(low * per_step)), max(1, round(high * per_step))

    def _scaled(self, steps: int) -> tuple[int, int]:
        height, width = self.size
        return steps * STEP, max(1, int(steps * width / height)) * STEP


def augment_yolox(
    load: Callable[[int], BoxedPixels],
    index: int,
    seed: int,
    partners: Partners,
    recipe: YOLOXAugmentation,
    preprocess: Preprocess,
    composed: bool,
) -> BoxedPixels:
    """One training image of the recipe.

    Args:
        load: a decoded image with its boxes, by index.
        index: of the image that it begins with.
        seed: of everything random, the other images among it.
        partners: what other images there are.
        recipe: the settings.
        preprocess: the size of the result, the filter, the padding.
        composed: whether there may be mosaic and mixup.

    Returns:
        The image at the size of ``preprocess``, with boxes in its pixels.
    """
    random = np.random.default_rng(seed)
    if composed and random.random() < recipe.mosaic:
        frame = _composed(load, index, partners, recipe, preprocess, random)
        frame = frame._replace(image=jitter_hsv(frame.image, recipe.hsv, random))
        return _mirrored(frame) if random.random() < recipe.flip else frame
    given = load(index)
    if random.random() < recipe.flip:
        given = _mirrored(given)
    image, placement = fit_image(given.image, preprocess)
    frame_pixels = np.array(image)  # it may be the decoded image itself, which is kept for others
    rows, columns = (
        slice(max(0, start), start + side) for start, side in zip(placement.offset, placement.resized_size, strict=True)
    )
    # within the padding, which has the same grey in evaluation
    frame_pixels[rows, columns] = jitter_hsv(np.ascontiguousarray(frame_pixels[rows, columns]), recipe.hsv, random)
    boxes, kept = visible_boxes(placement.to_input(given.boxes), preprocess.size)
    return BoxedPixels(frame_pixels, boxes[kept], given.labels[kept])


def _composed(
    load: Callable[[int], BoxedPixels],
    index: int,
    partners: Partners,
    recipe: YOLOXAugmentation,
    preprocess: Preprocess,
    random: np.random.Generator,
) -> BoxedPixels:
    """A mosaic of the image with three others, warped, and mixed with a fourth."""
    others = random.integers(0, partners.total, 3)
    warped = random_affine(
        mosaic([load(int(one)) for one in (index, *others)], preprocess, random),
        preprocess.size,
        rotation=recipe.rotation,
        scale=recipe.scale,
        shear=recipe.shear,
        translation=recipe.translation,
        pad_value=preprocess.pad_value,
        random=random,
    )
    if not len(warped.boxes) or not partners.annotated or random.random() >= recipe.mixup:
        return warped
    partner = load(partners.annotated[int(random.integers(0, len(partners.annotated)))])
    return mixup(warped, partner, recipe.mixup_scale, preprocess, random)


def _mirrored(given: BoxedPixels) -> BoxedPixels:
    boxes = mirrored_boxes(given.boxes, given.image.shape[1])
    return BoxedPixels(mirrored(given.image), boxes, given.labels)
