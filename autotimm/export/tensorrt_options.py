"""Options of an engine: the shapes that it takes, and what the builder is told. Checked against a version."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from autotimm.export.tensorrt_flavour import Library
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.manifest import InputMode, Precision
from autotimm.runtime.sidecar import ProfileRange

Range = tuple[int, int, int]
"""Smallest, the one to be fastest at, largest."""

DEFAULT_BATCH: Range = (1, 1, 8)
DEFAULT_HEIGHT: Range = (32, 720, 4096)
DEFAULT_WIDTH: Range = (32, 1280, 4096)
"""For images of any size: up to 4K and photographs of 12 megapixels, upright too; fastest at 720p."""


@dataclass(frozen=True)
class EngineOptions:
    """What a user may say about an engine; ``None`` leaves the choice to the library."""

    batch: Range | None = None
    """Images a run, for artifacts that leave it free."""
    height: Range | None = None
    width: Range | None = None
    """Of the images, for artifacts that take any size."""
    workspace: int | None = None
    """MiB of device memory that a layer may use while it runs."""
    timing_cache: Path | None = None
    """File that keeps what the builder measured; read where it exists, and written."""
    version_compatible: bool = False
    """Whether newer versions of TensorRT may read the engine."""
    hardware_compatibility: str = "none"
    """``ampere_plus``, ``same_compute_capability``: run on other GPUs than that of the build."""
    dla_core: int | None = None
    """Deep-learning accelerator of a Jetson to use; layers that it lacks run on the GPU."""
    optimization_level: int | None = None
    """0 (quickest build) to 5 (fastest engine)."""

    def recorded(self) -> dict[str, Any]:
        """Those that were given, as plain JSON types; shapes and the timing cache are of no use to the engine."""
        left_out = ("batch", "height", "width", "timing_cache")
        default = asdict(EngineOptions())
        return {name: value for name, value in asdict(self).items() if name not in left_out and value != default[name]}

    def as_flags(self) -> str:
        """Those that were given, as ``autotimm build`` takes them; the flavour is of the machine, and none of them."""
        values: tuple[tuple[str, Range | int | Path | None], ...] = (
            ("--profile-batch", self.batch),
            ("--profile-height", self.height),
            ("--profile-width", self.width),
            ("--workspace", self.workspace),
            ("--timing-cache", self.timing_cache),
            ("--dla-core", self.dla_core),
            ("--optimization-level", self.optimization_level),
        )
        words: list[str] = []
        for flag, value in values:
            if value is not None:
                words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
        if self.version_compatible:
            words.append("--version-compatible")
        if self.hardware_compatibility != "none":
            words += ["--hardware-compatibility", self.hardware_compatibility]
        return shlex.join(words)

    def check_values(
        self,
        precision: Precision,
        batch: int | Literal["dynamic"] | None = None,
        input_mode: InputMode = "batch",
    ) -> None:
        """Refuse what no version takes; all that can be said before there is an artifact or a library.

        Args:
            precision: of the artifact.
            batch: that the artifact will take; ``None`` where it is there, and the profile is checked with it.
            input_mode: of the artifact.

        Raises:
            ConfigError: naming the option and the way out.
        """
        if self.workspace is not None and self.workspace < 1:
            raise ConfigError(f"workspace is {self.workspace}, but must be at least 1 (MiB)")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization_level is {self.optimization_level}, but must be 0 to 5")
        if self.dla_core is not None and precision == "fp32":
            raise ConfigError("a DLA computes in fp16 and int8 only: export with --precision fp16, then build that")
        if batch is not None:
            sides = (-1, -1, 3) if input_mode == "image" else (-1 if batch == "dynamic" else batch, 1, 1, 3)
            profile_of(self, "image" if input_mode == "image" else "images", sides, input_mode)

    def check(self, library: Library, precision: Precision) -> None:
        """Refuse what this version does not have, before anything is built.

        Raises:
            ConfigError: naming the option, the version and the way out.
        """
        if self.dla_core is not None and library.dla_missing:
            raise ConfigError(f"dla_core is {self.dla_core}, but {library.dla_missing}")
        self.check_values(precision)
        if library.is_rtx:
            for name, given, reason in (
                ("version_compatible", self.version_compatible, "needs a library that its packages do not have"),
                ("timing_cache", self.timing_cache is not None, "measures nothing while it builds"),
            ):
                if given:
                    raise ConfigError(f"{name} is of TensorRT: {library.name} {reason}; leave it out")
        levels = library.hardware_levels()
        if self.hardware_compatibility not in levels:
            raise ConfigError(
                f"{library.name} has no hardware compatibility {self.hardware_compatibility!r}, "
                f"only {', '.join(levels)} (same_compute_capability needs TensorRT 10.9)"
            )


def profile_of(options: EngineOptions, name: str, shape: tuple[int, ...], input_mode: InputMode) -> ProfileRange | None:
    """The range of shapes of one input.

    Args:
        options: what was asked for.
        name: of the input.
        shape: as the parser sees it, -1 where it is free: ``[N, H, W, 3]`` or, for images of any size, ``[H, W, 3]``.
        input_mode: of the artifact.

    Returns:
        ``None`` where the shape is fixed.

    Raises:
        ConfigError: a range for what is fixed, or one that is no range.
    """
    any_size = input_mode == "image"
    axes: tuple[tuple[str, Range | None, Range], ...] = (
        (("height", options.height, DEFAULT_HEIGHT), ("width", options.width, DEFAULT_WIDTH))
        if any_size
        else (("batch", options.batch, DEFAULT_BATCH),)
    )
    _refuse_foreign(options, {axis for axis, _, _ in axes}, any_size)
    ranges: list[Range] = [(side, side, side) for side in shape]
    for index, (axis, asked, default) in enumerate(axes):
        if shape[index] == -1:
            ranges[index] = _checked(axis, asked or default)
        elif asked is not None and set(asked) != {shape[index]}:
            raise ConfigError(
                f"the profile of {axis} is {list(asked)}, but {name} takes exactly {shape[index]}: export with "
                + ("--input image" if any_size else "--batch dynamic")
            )
    if -1 not in shape:
        return None
    unknown = [index for index, side in enumerate(shape) if side == -1 and index >= len(axes)]
    if unknown:
        raise ConfigError(f"{name} leaves its dimensions {unknown} free, which no artifact of AutoTimm does")
    return ProfileRange(*(tuple(sizes) for sizes in zip(*ranges, strict=True)))


def _refuse_foreign(options: EngineOptions, known: set[str], any_size: bool) -> None:
    for axis in ("batch", "height", "width"):
        if getattr(options, axis) is not None and axis not in known:
            takes = "one image of any size" if any_size else "images at the size of the network"
            raise ConfigError(f"a profile of {axis} was given, but this artifact takes {takes}; leave it out")


def _checked(axis: str, asked: Range) -> Range:
    least, best, most = asked
    if not 1 <= least <= best <= most:
        raise ConfigError(
            f"the profile of {axis} is {list(asked)}, but must be MIN OPT MAX, rising, from 1: for example "
            f"{' '.join(str(side) for side in DEFAULT_BATCH)}"
        )
    return asked
