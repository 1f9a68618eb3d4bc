"""How pixels become network input: the one description that training, export and runtime all follow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ConfigError

Fit = Literal["letterbox", "crop", "stretch"]
Align = Literal["center", "top_left"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
ChannelOrder = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Placement:
    """Where one source image lies in the frame of the network input.

    A source point ``x`` lands at ``x * scale_x + offset_x``, in continuous pixel coordinates with the origin at the
    outer corner of the top-left pixel. Offsets are negative where the fit crops the image.
    """

    source_size: tuple[int, int]
    """``(height, width)`` of the source image."""
    resized_size: tuple[int, int]
    """``(height, width)`` the whole source image is scaled to, before padding or cropping."""
    offset: tuple[int, int]
    """``(top, left)`` of the scaled image in the network input."""

    @property
    def scale(self) -> tuple[float, float]:
        """``(scale_y, scale_x)``: network pixels per source pixel. The two differ by the rounding of the resize."""
        return self.resized_size[0] / self.source_size[0], self.resized_size[1] / self.source_size[1]

    def to_source(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map xyxy boxes ``[..., 4]`` from network-input pixels to source pixels (not clipped)."""
        scale, shift = self._scale_and_shift()
        return ((boxes - shift) / scale).astype(np.float32)

    def to_input(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map xyxy boxes ``[..., 4]`` from source pixels to network-input pixels (not clipped)."""
        scale, shift = self._scale_and_shift()
        return (boxes * scale + shift).astype(np.float32)

    def _scale_and_shift(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale_y, scale_x = self.scale
        top, left = self.offset
        return np.array([scale_x, scale_y, scale_x, scale_y]), np.array([left, top, left, top], dtype=np.float64)


@dataclass(frozen=True)
class Preprocess:
    """From a decoded RGB uint8 image of any size to the normalised input of one network.

    The first half (``size`` to ``crop_fraction``) is geometry and is done in uint8; the second half (``channel_order``,
    ``mean``, ``std``) is arithmetic and is always part of the exported graph.
    """

    size: tuple[int, int]
    """``(height, width)`` of the network input in pixels."""
    fit: Fit = "stretch"
    """``letterbox`` keeps the aspect ratio and pads, ``crop`` keeps it and takes the centre, ``stretch`` does not."""
    align: Align = "center"
    """Where a letterboxed image lies in its frame."""
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    """Whether the filter widens when the image shrinks (Pillow always does, OpenCV's INTER_LINEAR never does)."""
    pad_value: int = 114
    """Grey level 0..255 around a letterboxed image."""
    crop_fraction: float = 1.0
    """For ``crop`` and ``stretch``: the side of the centre that is kept over the side of the scaled image (timm's
    ``crop_pct``)."""
    channel_order: ChannelOrder = "rgb"
    """Order of the network's input channels."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted, on the 0..255 scale, in ``channel_order``."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divided by, on the 0..255 scale, in ``channel_order``."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(allowed)
                raise ConfigError(f"Preprocess.{name} is {getattr(self, name)!r}, but must be one of: {choices}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"Preprocess.size is {self.size!r}, but must be a positive (height, width)")
        if not 0.0 < self.crop_fraction <= 1.0:
            raise ConfigError(f"Preprocess.crop_fraction is {self.crop_fraction!r}, but must be in (0, 1]")
        if not 0 <= self.pad_value <= 255:
            raise ConfigError(f"Preprocess.pad_value is {self.pad_value!r}, but must be a grey level in 0..255")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ConfigError(f"Preprocess.mean {self.mean!r} and std {self.std!r} must be three numbers each, std > 0")
        if not self.antialias and self.interpolation not in ("bilinear", "nearest"):
            raise ConfigError(f"Preprocess.antialias=False is not defined here for {self.interpolation} interpolation")

    def place(self, height: int, width: int) -> Placement:
        """Where a source image of this size lies in the network input.

        In whole numbers, so that a graph, which may have no float64, gets the same. The official code of YOLOX computes
        ``int(height * ratio)`` in floats, which comes out one pixel short where the exact product is whole and its
        float just below it (one size in thirty); here such a side has the pixel.
        """
        target_height, target_width = self.size
        if self.fit == "letterbox":
            # floor(side * min(ratios)); an extreme aspect ratio still leaves one pixel.
            resized = (
                max(1, min(target_height, height * target_width // width)),
                max(1, min(target_width, width * target_height // height)),
            )
        elif self.fit == "stretch":
            resized = self.frame
        else:
            resized = self._cover(height, width)
        slack_y, slack_x = target_height - resized[0], target_width - resized[1]
        if self.fit == "letterbox" and self.align == "top_left":
            return Placement((height, width), resized, (0, 0))
        if self.fit != "letterbox":
            # round() of half the positive excess, as torchvision's CenterCrop does.
            return Placement((height, width), resized, (-_rounded(-slack_y, 2), -_rounded(-slack_x, 2)))
        return Placement((height, width), resized, (slack_y // 2, slack_x // 2))

    @property
    def frame(self) -> tuple[int, int]:
        """The ``(height, width)`` whose centre, ``crop_fraction`` of it, is the network input."""
        return math.floor(self.size[0] / self.crop_fraction), math.floor(self.size[1] / self.crop_fraction)

    def _cover(self, height: int, width: int) -> tuple[int, int]:
        """Size of the scaled image whose centre is cropped, as timm's evaluation transform computes it."""
        cover_height, cover_width = self.frame
        if cover_height == cover_width:  # torchvision's Resize(int): the shorter side, then int() of the longer
            return max(cover_height, cover_width * height // width), max(cover_width, cover_height * width // height)
        # timm's ResizeKeepRatio: round(side / ratio), the ratio being the smaller of height / cover_height and
        # width / cover_width
        return (
            max(self.size[0], cover_height, _rounded(height * cover_width, width)),
            max(self.size[1], cover_width, _rounded(width * cover_height, height)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for manifests and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The inverse of :meth:`to_dict`; keys of later versions are an error, as ignoring one changes the pixels."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"Preprocess has no field {', '.join(unknown)}; it was written by a newer AutoTimm")
        as_fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in data.items()}
        return cls(**as_fields)


def _rounded(dividend: int, divisor: int) -> int:
    """The quotient of nonnegative numbers, rounded as :func:`round` does: half to even."""
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2))


_CHOICES: dict[str, tuple[str, ...]] = {
    "fit": get_args(Fit),
    "align": get_args(Align),
    "interpolation": get_args(Interpolation),
    "channel_order": get_args(ChannelOrder),
}
