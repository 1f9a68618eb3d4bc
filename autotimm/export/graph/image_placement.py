"""Where an image of any size lies in the network input, computed in the graph: :meth:`Preprocess.place` in tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autotimm.runtime.preprocess import Preprocess


class Axis(NamedTuple):
    """One axis of :class:`autotimm.runtime.Placement`, in whole numbers: int64 tensors ``[]``."""

    pixels: Tensor
    """``0 .. source - 1``, int64 ``[source]``."""
    source: Tensor
    """Pixels of the source image."""
    resized: Tensor
    """Pixels that it is scaled to, before padding or cropping."""
    offset: Tensor
    """Where the scaled image begins in the network input; negative where the fit crops it."""
    side: int
    """Pixels of the network input."""

    def scaled_pixels(self) -> Tensor:
        """Int64 ``[side]``: the pixel of the scaled image that each pixel of the network input shows; in the padding
        the nearest one.
        """
        shown = torch.arange(self.side, device=self.source.device) - self.offset
        return torch.minimum(shown.clamp(min=0), self.resized - 1)

    def is_inside(self) -> Tensor:
        """Bool ``[side]``: what is no padding."""
        shown = torch.arange(self.side, device=self.source.device) - self.offset
        return (shown >= 0) & (shown < self.resized)

    def nearest_inputs(self) -> Tensor:
        """Int64 ``[source]``: for each source pixel the pixel of the network input that shows its centre; beyond what
        a crop keeps, the nearest one. The same as in :mod:`autotimm.runtime.assemble`.
        """
        shown = quotient((2 * self.pixels + 1) * self.resized, 2 * self.source) + self.offset
        last = (self.offset + self.resized).clamp(max=self.side) - 1
        return torch.minimum(torch.maximum(shown, self.offset.clamp(min=0)), last)


def place(preprocess: Preprocess, image: Tensor) -> tuple[Axis, Axis]:
    """The same as :meth:`Preprocess.place`, digit for digit: rows and columns.

    The sizes are made tensors at once, and so stay free however the graph is recorded: a number of Python would be
    written into a trace.

    Args:
        preprocess: the size and the fit.
        image: ``[H, W, 3]``.
    """
    height, width = (torch.full((), image.shape[axis], dtype=torch.int64, device=image.device) for axis in (0, 1))
    target_height, target_width = preprocess.size
    frame_height, frame_width = preprocess.frame
    if preprocess.fit == "letterbox":
        resized_height = quotient(height * target_width, width).clamp(max=target_height).clamp(min=1)
        resized_width = quotient(width * target_height, height).clamp(max=target_width).clamp(min=1)
    elif preprocess.fit == "stretch":
        resized_height, resized_width = torch.full_like(height, frame_height), torch.full_like(width, frame_width)
    elif frame_height == frame_width:
        resized_height = quotient(height * frame_width, width).clamp(min=frame_height)
        resized_width = quotient(width * frame_height, height).clamp(min=frame_width)
    else:
        resized_height = _rounded(height * frame_width, width).clamp(min=max(frame_height, target_height))
        resized_width = _rounded(width * frame_height, height).clamp(min=max(frame_width, target_width))
    axes = []
    for axis, (source, resized) in enumerate(((height, resized_height), (width, resized_width))):
        side = preprocess.size[axis]
        pixels = torch.arange(image.shape[axis], device=image.device)
        axes.append(Axis(pixels, source, resized, _offset(preprocess, side, resized), side))
    return axes[0], axes[1]


def _offset(preprocess: Preprocess, side: int, resized: Tensor) -> Tensor:
    if preprocess.fit != "letterbox":
        return -_rounded(resized - side, torch.full_like(resized, 2))
    if preprocess.align == "top_left":
        return torch.zeros_like(resized)
    return quotient(side - resized, torch.full_like(resized, 2))


def quotient(dividend: Tensor, divisor: Tensor) -> Tensor:
    """Of nonnegative whole numbers, rounded down: int64.

    Estimated in float32, as exporters and some engines divide integers; from 2^24 on that is off by one here and there,
    and the rest tells.
    """
    estimate = torch.floor(dividend.float() / divisor.float()).long()
    rest = dividend - estimate * divisor
    return estimate + (rest >= divisor).long() - (rest < 0).long()


def _rounded(dividend: Tensor, divisor: Tensor) -> Tensor:
    """Of nonnegative whole numbers, rounded half to even."""
    down = quotient(dividend, divisor)
    rest = 2 * (dividend - down * divisor)
    is_odd = down - 2 * quotient(down, torch.full_like(down, 2)) == 1
    return down + ((rest > divisor) | ((rest == divisor) & is_odd)).to(down.dtype)
