"""Training augmentation of images with masks: both moved in the same way, and colours changed in the image alone.

Evaluation does not come here: it is ``fit_image`` of the runtime. Everything is a function of the image and a seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotimm.data.box_transforms import BoxAugmentation, augment_pixels
from autotimm.data.mask_classes import Mask
from autotimm.runtime.preprocess import Placement, Preprocess


def augment_masked(
    image: NDArray[np.uint8],
    mask: Mask,
    preprocess: Preprocess,
    augmentation: BoxAugmentation,
    ignore_index: int,
    seed: int,
) -> tuple[NDArray[np.uint8], Mask]:
    """Augment an image with its mask.

    Args:
        image: RGB uint8 ``[h, w, 3]``.
        mask: ``[h, w]``.
        preprocess: the letterbox that the random scale and place start from.
        augmentation: ``default`` flips, scales, moves (so that a part is cropped or padding shows) and jitters colours;
            ``light`` flips; ``none`` does neither.
        ignore_index: what padding is in the mask.
        seed: of everything random.

    Returns:
        RGB uint8 ``[H, W, 3]`` and the mask ``[H, W]``, of the size of ``preprocess``.
    """
    moved = augment_pixels(image, preprocess, augmentation, seed)
    source = mask[:, ::-1] if moved.mirrored else mask
    return moved.frame, place_mask(source, moved.placement, preprocess.size, ignore_index)


def place_mask(mask: Mask, placement: Placement, size: tuple[int, int], ignore_index: int) -> Mask:
    """A mask as its image lies in the network input: each pixel takes the class under its centre.

    Args:
        mask: ``[h, w]`` at source size.
        placement: of the image in the network input.
        size: ``(height, width)`` of that.
        ignore_index: around the image.

    Returns:
        ``[H, W]``, C-contiguous.
    """
    frame: Mask = np.full(size, ignore_index, dtype=mask.dtype)
    rows, columns = (_source_pixels(placement, size, axis) for axis in (0, 1))
    frame[np.ix_(rows[0], columns[0])] = mask[np.ix_(rows[1], columns[1])]
    return frame


def _source_pixels(
    placement: Placement, size: tuple[int, int], axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels of the frame that the image covers, and the source pixel under the centre of each."""
    source, resized, offset = placement.source_size[axis], placement.resized_size[axis], placement.offset[axis]
    covered = np.arange(max(0, offset), max(0, min(size[axis], offset + resized)))
    return covered, (2 * (covered - offset) + 1) * source // (2 * resized)
