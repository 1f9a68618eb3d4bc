"""Boxes and captions drawn on pictures, legible at any size."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.images import load_image

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Color = tuple[int, int, int]
"""RGB, 0..255."""
Corner = tuple[int, int]

_SMALLEST_LETTERS = 7
"""Pixels; smaller letters cannot be read, so a caption that would need them is left out."""

_GOLDEN_RATIO = 0.618034
"""Steps of this share of the colour circle never come close to an earlier one for long (Weyl's sequence)."""


_CAPTION_BACKGROUND = (32, 32, 32)


def color_of(label: int) -> Color:
    """The colour of a class, as RGB 0..255: the same label always has the same one, neighbours are far apart."""
    hue = (0.58 + label * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (0.95, 0.7))[label // 7 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: Image.Image,
    boxes: NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int32],
    captions: Sequence[str],
    *,
    thickness: int | None = None,
) -> Image.Image:
    """A copy of a picture, in RGB, with boxes and captions; the first boxes lie on top.

    Args:
        image: the picture, of any mode and size.
        boxes: ``[n, 4]`` xyxy in its pixels.
        labels: ``[n]`` class indices, which choose the colours.
        captions: ``[n]`` texts; an empty one is not drawn.
        thickness: pixels of the lines; by the size of the picture where absent.
    """
    canvas, pen = _canvas(image)
    thickness = thickness or max(1, round(min(canvas.size) / 220))
    items = list(zip(boxes.tolist(), labels, captions, strict=True))
    for box, label, _ in reversed(items):
        pen.rectangle(_pixels(box, canvas.size), outline=color_of(int(label)), width=thickness)
    # All captions after all boxes, so that no line runs through a text; the best are placed first and drawn last.
    placed: list[tuple[_Plate, Corner, Color]] = []
    for box, label, caption in items:
        plate = _Plate.fitting(caption, canvas.size) if caption else None
        if plate is not None:
            corner = _free_corner(plate, _pixels(box, canvas.size), [(other, at) for other, at, _ in placed])
            placed.append((plate, corner, color_of(int(label))))
    for plate, corner, color in reversed(placed):
        plate.draw(pen, corner, color)
    return canvas


def captions_cover(captions: Sequence[str], size: tuple[int, int]) -> float:
    """The share of a picture of this ``(width, height)`` that captions take, were they to lie beside each other."""
    plates = [_Plate.fitting(caption, size) for caption in captions]
    return sum(plate.width * plate.height for plate in plates if plate) / (size[0] * size[1])


def draw_caption(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """A copy of a picture, in RGB, with lines of text in its top-left corner; lines that do not fit are left out."""
    canvas, pen = _canvas(image)
    top = 0
    for line in lines:
        plate = _Plate.fitting(line, canvas.size)
        if plate is None or top + plate.height > canvas.height:
            break
        plate.draw(pen, (0, top), _CAPTION_BACKGROUND)
        top += plate.height
    return canvas


def draw_legend(
    image: Image.Image, lines: Sequence[str], colors: Sequence[Color], busy: NDArray[np.bool_]
) -> Image.Image:
    """A copy of a picture, in RGB, with a legend in the corner where it hides the least.

    It takes at most a third of the picture; how many lines found no place in it is said in its last one.

    Args:
        image: the picture, of any mode and size.
        lines: texts, the most important first.
        colors: of each text's background.
        busy: ``[H, W]``: the pixels that should rather be seen.
    """
    canvas, pen = _canvas(image)
    plates = _legend_plates(lines, canvas.size)
    if not plates:
        return canvas
    width, height = plates[0].width, sum(plate.height for plate in plates)
    corners = [(x, y) for y in (0, canvas.height - height) for x in (0, canvas.width - width)]
    left, top = min(corners, key=lambda at: np.count_nonzero(busy[at[1] : at[1] + height, at[0] : at[0] + width]))
    for plate, line, color in zip(plates, lines, colors, strict=False):
        plate.draw(pen, (left, top), color if plate.text == line else _CAPTION_BACKGROUND)
        top += plate.height
    return canvas


def _legend_plates(lines: Sequence[str], size: tuple[int, int]) -> list[_Plate]:
    """In the largest letters in which all lines fit, else as many as fit in the smallest; all of one width."""
    for letters in range(_letters_for(size), _SMALLEST_LETTERS - 1, -1):
        most = min(len(lines), size[1] // _plate_height(letters))
        for shown in range(most, 0, -1) if letters == _SMALLEST_LETTERS else (len(lines),):
            if shown > most:
                break
            hidden = len(lines) - shown
            texts = [*lines[:shown], *([f"and {hidden} more"] if hidden else [])]
            plates = [_Plate.of(text, letters, size) for text in texts]
            width, height = max((p.width for p in plates), default=0), sum(p.height for p in plates)
            if width <= size[0] and height <= size[1] and 3 * width * height <= size[0] * size[1]:
                return [replace(plate, width=width) for plate in plates]
    return []


@dataclass(frozen=True)
class _Plate:
    """A text with its background, measured for a picture of one size."""

    text: str
    font: FreeTypeFont | ImageFont
    width: int
    height: int
    canvas_size: tuple[int, int]

    @classmethod
    def of(cls, text: str, letters: int, canvas_size: tuple[int, int]) -> _Plate:
        """In letters of this size."""
        font = _font(letters)
        return cls(text, font, *_extent(text, font, letters), canvas_size)

    @classmethod
    def fitting(cls, text: str, canvas_size: tuple[int, int]) -> _Plate | None:
        """In the size that suits the picture or the largest that fits in; ``None`` where no legible one does."""
        width, height = canvas_size
        letters = _letters_for(canvas_size)
        while letters >= _SMALLEST_LETTERS:
            plate = cls.of(text, letters, canvas_size)
            if plate.width <= width and plate.height <= height:
                return plate
            letters = min(letters - 1, int(letters * min(width / plate.width, height / plate.height)))
        return None

    def moved_inside(self, left: int, top: int) -> Corner:
        """The nearest top-left corner with which all of it lies inside the picture."""
        width, height = self.canvas_size
        return max(0, min(left, width - self.width)), max(0, min(top, height - self.height))

    def draw(self, pen: ImageDraw, corner: Corner, background: Color) -> None:
        """Draw with its top-left corner here."""
        left, top = corner
        pen.rectangle((left, top, left + self.width - 1, top + self.height - 1), fill=background)
        middle = left + self.width / 2, top + self.height / 2
        pen.text(middle, self.text, fill=_text_color(background), font=self.font, anchor="mm")


def _free_corner(plate: _Plate, box: tuple[int, int, int, int], placed: Sequence[tuple[_Plate, Corner]]) -> Corner:
    """Above the box, inside its top, below it or inside its bottom: the first place where no other caption is."""
    left, top, _, bottom = box
    above, below = top - plate.height, bottom + 1
    tops = [above, top, below, bottom - plate.height + 1]
    if above < 0:
        tops = tops[1:]
    corners = [plate.moved_inside(left, edge) for edge in tops]
    for x, y in corners:
        if not any(
            x < other_x + other.width
            and other_x < x + plate.width
            and y < other_y + other.height
            and other_y < y + plate.height
            for other, (other_x, other_y) in placed
        ):
            return x, y
    return corners[0]


def _canvas(image: Image.Image) -> tuple[Image.Image, ImageDraw]:
    from PIL import ImageDraw

    canvas = Image.fromarray(load_image(image))
    return canvas, ImageDraw.Draw(canvas)


def _pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a box, inside the picture; at least one pixel each way."""
    width, height = size
    left, top = (min(max(0, round(edge)), side - 1) for edge, side in zip(box[:2], size, strict=True))
    right, bottom = min(round(box[2]), width) - 1, min(round(box[3]), height) - 1
    return left, top, max(left, right), max(top, bottom)


def _text_color(background: Color) -> Color:
    red, green, blue = background
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def _letters_for(size: tuple[int, int]) -> int:
    """Pixels of the letters that suit a picture of this ``(width, height)``."""
    # By the geometric mean of the sides, which suits panoramas as well as squares.
    return min(max(10, round(math.sqrt(size[0] * size[1]) / 34)), 120)


def _extent(text: str, font: FreeTypeFont | ImageFont, letters: int) -> tuple[int, int]:
    """Width and height of a text and its margins: the same height for every text of one size."""
    left, _, right, _ = font.getbbox(text)
    return round(right - left + 0.5 * letters), _plate_height(letters)


def _plate_height(letters: int) -> int:
    return round(1.35 * letters)


@lru_cache(maxsize=16)
def _font(letters: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=letters)
