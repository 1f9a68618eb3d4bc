"""Jitter of hue, saturation and value in whole steps, as the official YOLOX does it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from autotimm.data.transforms import Pixels, as_array, as_tensor

CIRCLE = 180.0
"""Steps of hue, 2 degrees each, as in OpenCV's uint8 images."""


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
    planes = as_tensor(image).float().contiguous()
    brightest = planes.amax(dim=0)
    chroma = brightest - planes.amin(dim=0)
    shifted_value = (brightest + value).clamp_(0, 255)
    shifted_saturation = (chroma * 255 / brightest.clamp(min=1)).round_().add_(saturation).clamp_(0, 255)
    shifted_chroma = shifted_saturation.mul_(shifted_value).div_(255)
    # how far each colour lies below the brightest, over the chroma; a grey has hue 0, which is red
    if hue:
        below = _below(_hue(planes, brightest, chroma) + hue)
    else:
        below = (brightest - planes).div_(chroma.clamp(min=1))
        below[1:] += chroma == 0
    return as_array((shifted_value - below.mul_(shifted_chroma)).add_(0.5).to(torch.uint8))


def _hue(planes: Tensor, brightest: Tensor, chroma: Tensor) -> Tensor:
    """Whole steps from about -30 to 150; 0 for greys."""
    red, green, blue = planes
    sixth = (CIRCLE / 6) / chroma.clamp(min=1)
    from_red = (green - blue).mul_(sixth)
    from_green = (blue - red).mul_(sixth).add_(CIRCLE / 3)
    from_blue = (red - green).mul_(sixth).add_(2 * CIRCLE / 3)
    hue = torch.where(brightest == red, from_red, torch.where(brightest == green, from_green, from_blue))
    return hue.round_()  # a grey has a chroma of 0, so from_red is 0


def _below(hue: Tensor) -> Tensor:
    """How far red, green and blue lie below the brightest of them, over the chroma ``[3, h, w]``.

    A colour is the brightest up to a sixth of the circle from its own hue, and the darkest from a third on.

    Args:
        hue: from -60 to 180.
    """
    sixths = hue / (CIRCLE / 6)
    below = torch.empty(3, *hue.shape)
    for colour, centre in enumerate((0.0, 2.0, 4.0)):
        away = (sixths - centre).abs_()
        torch.minimum(away, 6.0 - away, out=below[colour]).sub_(1.0).clamp_(0.0, 1.0)
    return below
