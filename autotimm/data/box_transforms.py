"""Training augmentation of images with boxes: from a decoded image to network-input pixels, at random.

Evaluation does not come here: it is ``fit_image`` of the runtime. Everything is a function of the image and a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as F

from autotimm.data.boxed import Boxes
from autotimm.data.pasting import paste
from autotimm.data.transforms import mirrored
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image

BoxAugmentation = Literal["default", "light", "none"]

SCALE = (0.5, 1.5)
"""Of a detection image over its letterboxed size: the official YOLOX-nano and -tiny recipe."""
TRANSLATE = 0.1
"""Of a detection image, over the size of the frame: the official YOLOX recipe."""
MIN_VISIBLE = 0.2
"""A box that keeps less of its area is dropped (area_thr of the official YOLOX's box_candidates)."""
MIN_SIDE = 2.0
"""A box with a shorter side, in network-input pixels, is dropped (wh_thr of the same)."""
JITTER = {"brightness": 0.3, "contrast": 0.2, "saturation": 0.3}
"""Factors 1 +- these; about the strength of the official YOLOX's HSV jitter, without a change of hue."""


def check_box_augmentation(name: str, others: Sequence[str] = ()) -> BoxAugmentation:
    """The name itself.

    Args:
        name: of an augmentation of images with boxes or masks.
        others: names that the caller knows beside these, for the message.

    Raises:
        ConfigError: no such augmentation, or one for images with one class only.
    """
    for known in get_args(BoxAugmentation):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError.unknown("augmentation of images with boxes or masks", name, (*get_args(BoxAugmentation), *others))


def augment_boxed(
    image: NDArray[np.uint8],
    boxes: Boxes,
    preprocess: Preprocess,
    augmentation: BoxAugmentation,
    seed: int,
) -> tuple[NDArray[np.uint8], Boxes, NDArray[np.bool_]]:
    """Augment an image with boxes.

    Args:
        image: RGB uint8 ``[h, w, 3]``.
        boxes: in source pixels.
        preprocess: the letterbox that the random scale and place start from.
        augmentation: ``default`` flips, scales, moves and jitters colours; ``light`` flips; ``none`` does neither.
        seed: of everything random.

    Returns:
        RGB uint8 ``[H, W, 3]`` of the size of ``preprocess``; the boxes ``[k, 4]`` that are left, in network-input
        pixels; and which of the given boxes ``[n]`` they are.
    """
    moved = augment_pixels(image, preprocess, augmentation, seed)
    clipped, kept = moved_boxes(boxes, moved, preprocess.size)
    return moved.frame, clipped[kept], kept


class Moved(NamedTuple):
    """An augmented image, and where everything in it has gone."""

    frame: NDArray[np.uint8]
    """RGB ``[H, W, 3]``."""
    placement: Placement
    """Of the image in the frame."""
    mirrored: bool
    """Whether left and right were exchanged before."""


def augment_pixels(image: NDArray[np.uint8], preprocess: Preprocess, augmentation: BoxAugmentation, seed: int) -> Moved:
    """Augment an image whose objects have places; arguments as for :func:`augment_boxed`."""
    random = np.random.default_rng(seed)
    flipped = augmentation != "none" and random.random() < 0.5
    if flipped:
        image = mirrored(image)
    if augmentation == "default":
        placement = _random_placement(preprocess.place(image.shape[0], image.shape[1]), preprocess.size, random)
        return Moved(_paste(image, placement, preprocess, random), placement, flipped)
    return Moved(*fit_image(image, preprocess), flipped)


def moved_boxes(boxes: Boxes, moved: Moved, size: tuple[int, int]) -> tuple[Boxes, NDArray[np.bool_]]:
    """Boxes in source pixels as they lie in the frame, clipped to it, and which are still worth learning."""
    if moved.mirrored:
        boxes = mirrored_boxes(boxes, moved.placement.source_size[1])
    return visible_boxes(moved.placement.to_input(boxes), size)


def _random_placement(letterboxed: Placement, size: tuple[int, int], random: np.random.Generator) -> Placement:
    """Scale the letterboxed image, put it anywhere it fits (or any part of it that fits), and move it a little."""
    scale = random.uniform(*SCALE)
    resized = [max(1, round(side * scale)) for side in letterboxed.resized_size]
    offset = [
        round((frame - side) * random.random() + frame * random.uniform(-TRANSLATE, TRANSLATE))
        for frame, side in zip(size, resized, strict=True)
    ]
    return Placement(letterboxed.source_size, (resized[0], resized[1]), (offset[0], offset[1]))


def _paste(
    image: NDArray[np.uint8], placement: Placement, preprocess: Preprocess, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Resize to the placement, jitter the colours of what is visible, and pad."""
    frame = np.full((*preprocess.size, 3), preprocess.pad_value, dtype=np.uint8)

    def jittered(visible: torch.Tensor) -> torch.Tensor:
        for name, strength in JITTER.items():
            visible = getattr(F, f"adjust_{name}")(visible, random.uniform(1 - strength, 1 + strength))
        return visible

    paste(frame, image, placement, preprocess, jittered)
    return frame


def mirrored_boxes(boxes: Boxes, width: int) -> Boxes:
    """Boxes of an image of this width, left and right exchanged."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def visible_boxes(boxes: Boxes, size: tuple[int, int]) -> tuple[Boxes, NDArray[np.bool_]]:
    """Clip boxes to the frame, and say which are still worth learning."""
    clipped = np.clip(boxes, 0, np.array([size[1], size[0], size[1], size[0]], dtype=np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    visible = sides[:, 0] * sides[:, 1] / np.maximum(whole, 1e-9)
    return clipped, (sides >= MIN_SIDE).all(axis=1) & (visible >= MIN_VISIBLE)
