"""Masks drawn on pictures: translucent colours with outlines, a legend, boxes and captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.drawing import color_of, draw_boxes, draw_caption
from autotimm.runtime.images import load_image

if TYPE_CHECKING:
    from autotimm.runtime.drawing import Color
    from autotimm.runtime.mask_regions import MaskRegion


def draw_classes(
    image: Image.Image,
    mask: NDArray[np.integer],
    class_names: Sequence[str],
    coverage: NDArray[np.float64],
    palette: Sequence[Color] | None,
) -> Image.Image:
    """A copy of a picture, in RGB, with its classes in translucent colours."""
    pixels = load_image(image)
    colors = np.array(palette or [color_of(label) for label in range(len(class_names))], np.uint8)
    blended = (pixels.astype(np.uint16) + colors[mask]) // 2
    lines = [f"{class_names[label]} {coverage[label]:.0%}" for label in np.argsort(-coverage) if coverage[label]]
    return draw_caption(Image.fromarray(blended.astype(np.uint8)), lines)


def draw_instances(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    captions: Sequence[str],
    regions: Sequence[MaskRegion],
) -> Image.Image:
    """A copy of a picture, in RGB, with masks, boxes and captions; the first objects lie on top."""
    pixels = load_image(image).copy()
    for region, label in zip(reversed(regions), labels[::-1], strict=True):
        tinted = (pixels.astype(np.uint16) + np.array(color_of(int(label)), np.uint16)) // 2
        height, width = region.pixels.shape
        part = tinted[region.top : region.top + height, region.left : region.left + width]
        region.paint(pixels, part[region.pixels].astype(np.uint8))
    return draw_boxes(Image.fromarray(pixels), boxes, labels, captions)
