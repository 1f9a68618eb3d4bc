"""Two images with boxes shown through each other."""

from __future__ import annotations

import numpy as np

from autotimm.data.affine import worth_keeping
from autotimm.data.box_transforms import mirrored_boxes
from autotimm.data.boxed import BoxedPixels
from autotimm.data.pasting import paste
from autotimm.data.transforms import mirrored
from autotimm.runtime.preprocess import Placement, Preprocess

MIN_SIDE = 5.0
"""A box of the second image with a side of at most so many pixels is dropped (as the official YOLOX's mixup does)."""


def mixup(
    base: BoxedPixels,
    partner: BoxedPixels,
    scale: tuple[float, float],
    preprocess: Preprocess,
    random: np.random.Generator,
) -> BoxedPixels:
    """The mean of an image and a second one, which is scaled and mirrored at random, with the boxes of both.

    Args:
        base: at the size of ``preprocess``.
        partner: of any size. It is padded to the size of ``preprocess`` at the bottom right, then scaled; of a larger
            one a random part is seen, around a smaller one it is black.
        scale: least and greatest.
        preprocess: the size and the filter.
        random: of scale, mirroring and part.

    Returns:
        The mixed image; the base as it was where no box of the partner is left.
    """
    height, width = preprocess.size
    factor = random.uniform(*scale)
    flip = random.random() < 0.5
    extent = int(height * factor), int(width * factor)
    cut = [int(random.integers(0, max(1, length - side))) for length, side in zip(extent, preprocess.size, strict=True)]
    source = partner.image.shape[0], partner.image.shape[1]
    letterboxed = preprocess.place(*source).resized_size
    resized = max(1, round(letterboxed[0] * factor)), max(1, round(letterboxed[1] * factor))
    left = extent[1] - resized[1] if flip else 0
    placement = Placement(source, resized, (-cut[0], left - cut[1]))
    image, boxes = partner.image, partner.boxes
    if flip:
        image, boxes = mirrored(image), mirrored_boxes(boxes, source[1])
    whole = placement.to_input(boxes)
    clipped = np.clip(whole, 0, np.array([width, height, width, height], dtype=np.float32))
    kept = worth_keeping(whole, clipped, MIN_SIDE)
    if not kept.any():
        return base
    frame = np.zeros((height, width, 3), dtype=np.uint8)
    frame[: extent[0] - cut[0], : extent[1] - cut[1]] = preprocess.pad_value
    paste(frame, image, placement, preprocess)
    mixed = ((base.image.astype(np.uint16) + frame) >> 1).astype(np.uint8)
    return BoxedPixels(
        mixed, np.concatenate([base.boxes, clipped[kept]]), np.concatenate([base.labels, partner.labels[kept]])
    )
