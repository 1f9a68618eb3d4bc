"""Jitter of hue, saturation and value in whole steps, as the official YOLOX does it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from autotimm.data.transforms import Pixels


def jitter_hsv(image: Pixels, strength: tuple[int, int, int], random: np.random.Generator) -> Pixels:
    """Add whole numbers to hue, saturation and value; each of the three is left alone half of the time.

    Args:
        image: RGB uint8 ``[h, w, 3]``.
        strength: of hue in steps of 2 degrees, of saturation and value in 1/255: the units of OpenCV's uint8 HSV.
        random: of the amounts.
    """
    drawn = random.uniform(-1, 1, 3) * strength * random.integers(0, 2, 3)
    return shifted_hsv(image, *(int(amount) for amount in drawn))


def shifted_hsv(image: Pixels, hue: int, saturation: int, value: int) -> Pixels:
    """The image with these added: hue goes round, the others stop at 0 and 255."""
    if not (hue or saturation or value):
        return image
    levels = np.arange(256)
    tables = (
        (levels + round(hue * 256 / 180)) % 256,  # Pillow's circle has 256 steps, OpenCV's 180
        np.clip(levels + saturation, 0, 255),
        np.clip(levels + value, 0, 255),
    )
    changed = Image.fromarray(image).convert("HSV").point(np.concatenate(tables).tolist())
    return np.asarray(changed.convert("RGB"))
