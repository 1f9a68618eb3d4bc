"""The six official sizes of YOLOX and how they are found by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from autotimm.runtime.errors import ConfigError


@dataclass(frozen=True)
class YOLOXSize:
    """What tells one YOLOX from another; every channel and block count follows from it."""

    name: str
    depth: float
    """Multiplies the number of bottlenecks in a stage; three of them at depth 1."""
    width: float
    """Multiplies the channels; the stem has 64 of them at width 1."""
    depthwise: bool
    """Whether 3x3 convolutions are depthwise separable."""
    test_size: tuple[int, int]
    """``(height, width)`` in pixels of the network input at which the official accuracy is measured."""

    @property
    def stem_channels(self) -> int:
        """Channels after the stem; stage ``k`` (1 to 4) has ``2 ** k`` times as many."""
        return int(self.width * 64)

    @property
    def bottlenecks(self) -> int:
        """Bottlenecks in the shallowest stage and in every stage of the feature pyramid."""
        return max(round(self.depth * 3), 1)


_SIZES = {
    size.name: size
    for size in (
        YOLOXSize("yolox-nano", 0.33, 0.25, True, (416, 416)),
        YOLOXSize("yolox-tiny", 0.33, 0.375, False, (416, 416)),
        YOLOXSize("yolox-s", 0.33, 0.50, False, (640, 640)),
        YOLOXSize("yolox-m", 0.67, 0.75, False, (640, 640)),
        YOLOXSize("yolox-l", 1.0, 1.0, False, (640, 640)),
        YOLOXSize("yolox-x", 1.33, 1.25, False, (640, 640)),
    )
}


def list_yolox_models() -> list[str]:
    """Names of the official sizes, smallest first."""
    return list(_SIZES)


def find_size(name: str) -> YOLOXSize:
    """Find a size by its name: ``yolox-nano``, and also ``yolox_nano``, ``YOLOX-Nano`` or ``nano``.

    Raises:
        ConfigError: there is no such size; the message names the nearest ones.
    """
    key = name.strip().lower().replace("_", "-")
    if not key.startswith("yolox"):
        key = f"yolox-{key}"
    if key in _SIZES:
        return _SIZES[key]
    near = difflib.get_close_matches(key, _SIZES, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the sizes are {', '.join(_SIZES)}"
    raise ConfigError(f"there is no YOLOX called {name!r}; {hint}")
