"""Putting an image into a larger frame, scaled and cropped as a placement says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torchvision.transforms.v2 import functional as F

from autotimm.data.transforms import INTERPOLATION, Pixels, as_array, as_tensor
from autotimm.runtime.preprocess import Placement, Preprocess


def paste(
    frame: Pixels,
    image: Pixels,
    placement: Placement,
    preprocess: Preprocess,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> None:
    """Resize an image and write what is visible of it.

    Args:
        frame: uint8 ``[H, W, 3]``, written.
        image: RGB uint8 ``[h, w, 3]``.
        placement: of the image in the frame; it may reach out of it.
        preprocess: the filter.
        change: of the visible part, uint8 ``[3, rows, columns]``.
    """
    (top, left), (height, width) = placement.offset, placement.resized_size
    rows = slice(max(0, -top), min(height, frame.shape[0] - top))
    columns = slice(max(0, -left), min(width, frame.shape[1] - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    resized = F.resize(
        as_tensor(image),
        [height, width],
        interpolation=INTERPOLATION[preprocess.interpolation],
        antialias=preprocess.antialias,
    )
    visible = resized[:, rows, columns]
    target = frame[rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
    target[...] = as_array(visible if change is None else change(visible))
