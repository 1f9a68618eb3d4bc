"""Four images in one of twice the side, around a random centre."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotimm.data.boxed import BoxedPixels
from autotimm.data.pasting import paste
from autotimm.runtime.preprocess import Placement, Preprocess

CENTRE = (0.5, 1.5)
"""Of the network input's sides: where the four images meet."""


def mosaic(four: Sequence[BoxedPixels], preprocess: Preprocess, random: np.random.Generator) -> BoxedPixels:
    """Put four images together, each as large as in evaluation.

    Args:
        four: at the top left, top right, bottom left and bottom right.
        preprocess: the size ``(H, W)`` and the filter.
        random: of the centre.

    Returns:
        An image ``[2 H, 2 W, 3]``, with all boxes, clipped to it. What a corner cannot hold of its image is cut off.
    """
    height, width = preprocess.size
    centre_y, centre_x = int(height * random.uniform(*CENTRE)), int(width * random.uniform(*CENTRE))
    frame = np.full((2 * height, 2 * width, 3), preprocess.pad_value, dtype=np.uint8)
    edges = np.array([2 * width, 2 * height, 2 * width, 2 * height], dtype=np.float32)
    boxes = []
    for corner, one in enumerate(four):
        source = one.image.shape[0], one.image.shape[1]
        resized = preprocess.place(*source).resized_size
        top = centre_y - resized[0] if corner < 2 else centre_y
        left = centre_x - resized[1] if corner % 2 == 0 else centre_x
        placement = Placement(source, resized, (top, left))
        paste(frame, one.image, placement, preprocess)
        boxes.append(np.clip(placement.to_input(one.boxes), 0, edges))
    return BoxedPixels(frame, np.concatenate(boxes), np.concatenate([one.labels for one in four]))
