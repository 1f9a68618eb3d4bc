"""Masks drawn on pictures: translucent colours with outlines, under a legend or under boxes and captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.drawing import Color, captions_cover, color_of, draw_boxes, draw_legend
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.images import load_image
from autotimm.runtime.mask_regions import MaskRegion

_UNTINTED = (64, 64, 64)
"""The background's colour in the legend; the picture shows it as it is."""

_MOST_COVERED = 0.15
"""The largest share of a picture that captions may take."""


def class_colors(class_names: Sequence[str], palette: Sequence[Color] | None) -> list[Color]:
    """RGB of each class: the palette's, else AutoTimm's own, with a background (the first class, of that name) black
    as in the palettes of Pascal VOC.
    """
    if palette is not None:
        return list(palette)
    return [(0, 0, 0) if _is_background(label, name) else color_of(label) for label, name in enumerate(class_names)]


def draw_classes(
    image: Image.Image,
    mask: NDArray[np.integer],
    class_names: Sequence[str],
    coverage: NDArray[np.float64],
    palette: Sequence[Color] | None,
) -> Image.Image:
    """A copy of a picture, in RGB, with its classes in translucent colours, lines between them, and a legend.

    A background, which is the first class where that is its name, is left as it is.

    Args:
        image: the picture, of any mode, of the size of the mask.
        mask: ``[H, W]`` class indices.
        class_names: one a class.
        coverage: ``[C]`` share of each class, 0..1.
        palette: RGB of each class; AutoTimm's own colours where absent.

    Raises:
        ConfigError: the picture is not of the size of the mask.
    """
    pixels = _pixels_of(image, mask.shape)
    colors = class_colors(class_names, palette)
    tinted = np.array([not _is_background(label, name) for label, name in enumerate(class_names)])[mask]
    table = np.array(colors, np.uint8)
    blended = np.where(tinted[..., None], (pixels >> 1) + (table >> 1)[mask], pixels)
    lines = tinted & _borders(mask, _line_width(mask.shape))
    blended[lines] = table[mask[lines]]
    present = [int(label) for label in np.argsort(-coverage, kind="stable") if coverage[label] > 0]
    return draw_legend(
        Image.fromarray(blended),
        [f"{class_names[label]} {_percent(coverage[label])}" for label in present],
        [_UNTINTED if _is_background(label, class_names[label]) else colors[label] for label in present],
        tinted,
    )


def draw_instances(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int32],
    captions: Sequence[str],
    class_names: Sequence[str],
    regions: Sequence[MaskRegion],
    size: tuple[int, int],
) -> Image.Image:
    """A copy of a picture, in RGB, with outlined translucent masks, boxes and captions; the first lie on top.

    Where the captions of many small objects would hide them, a legend counts the objects of each class instead.

    Args:
        image: the picture, of any mode, of the size of the masks.
        boxes: ``[n, 4]`` xyxy in its pixels.
        labels: ``[n]`` class indices, which choose the colours.
        captions: ``[n]`` texts.
        class_names: one a class.
        regions: ``n`` masks.
        size: ``(height, width)`` of the image that the masks are of.

    Raises:
        ConfigError: the picture is not of that size.
    """
    pixels = _pixels_of(image, size).copy()
    width = _line_width(size)
    for region, label in zip(reversed(regions), labels[::-1], strict=True):
        color = np.array(color_of(int(label)), np.uint8)
        height, columns = region.pixels.shape
        part = pixels[region.top : region.top + height, region.left : region.left + columns]
        part[region.pixels] = (part[region.pixels] >> 1) + (color >> 1)
        part[region.pixels & _borders(np.pad(region.pixels, width), width)[width:-width, width:-width]] = color
    thin = max(1, width // 2)
    picture = Image.fromarray(pixels)
    if captions_cover(captions, picture.size) <= _MOST_COVERED:
        return draw_boxes(picture, boxes, labels, captions, thickness=thin)
    picture = draw_boxes(picture, boxes, labels, [""] * len(captions), thickness=thin)
    counts = Counter(labels.tolist()).most_common()
    busy = np.zeros(size, bool)
    for region in regions:
        region.paint(busy, value=True)
    lines = [f"{class_names[label]}: {count}" for label, count in counts]
    return draw_legend(picture, lines, [color_of(label) for label, _ in counts], busy)


def _is_background(label: int, name: str) -> bool:
    return label == 0 and name.lower() == "background"


def _pixels_of(image: Image.Image, size: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels = load_image(image)
    if pixels.shape[:2] != tuple(size):
        raise ConfigError(
            f"the picture is {pixels.shape[1]}x{pixels.shape[0]}, but the masks are for {size[1]}x{size[0]}; "
            "draw on the image that was predicted on"
        )
    return pixels


def _line_width(size: Sequence[int]) -> int:
    """Pixels of an outline that can be seen, but hides little, in a picture of this size."""
    return max(1, round(min(size) / 300))


def _borders(mask: NDArray[np.integer] | NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels that have another value within ``width`` pixels above, below, to the left or to the right."""
    borders = np.zeros(mask.shape, bool)
    for step in range(1, width + 1):
        rows, columns = mask[step:] != mask[:-step], mask[:, step:] != mask[:, :-step]
        borders[step:] |= rows
        borders[:-step] |= rows
        borders[:, step:] |= columns
        borders[:, :-step] |= columns
    return borders


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "< 1%"
