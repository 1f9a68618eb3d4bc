"""Which TensorRT is used, and what that version can do.

TensorRT is the library of servers and of Jetson; TensorRT-RTX that of desktop GPUs, which also builds where there is no
GPU. Both have nearly the same Python names; what differs between them and between 8.6, 10 and 11 is decided here.
Names of each version were read from NVIDIA's wheels.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from autotimm.runtime.backends.tensorrt_library import ON_JETSON, TITLES, on_jetson, version_numbers
from autotimm.runtime.errors import BackendUnavailableError, ConfigError, one_line
from autotimm.runtime.sidecar import Flavour

FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
"""In the order in which they are looked for."""
OLDEST = (8, 6)
_HIGHEST_OPSETS = (((11, 0), 24), ((10, 15), 24), ((10, 0), 20), ((8, 6), 17))
"""The highest opset that the parser of a version and later ones reads, by the ``docs/operators.md`` of onnx-tensorrt
(10.15 and 11: 9 to 24; 9.2: up to 19; 8.5: up to 17) and the "ONNX Opset Guide" of NVIDIA; between 10.0 and 10.14 the
lowest of them, since our graphs need no newer one."""
_RTX_HIGHEST_OPSET = 24


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    module: Any
    flavour: Flavour

    @property
    def name(self) -> str:
        """``TensorRT 10.3.0``."""
        return f"{TITLES[self.flavour]} {self.version}"

    @property
    def version(self) -> str:
        """As the library says it."""
        return str(self.module.__version__)

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = version_numbers(self.version)[:2]
        return major, minor

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, whose version numbers are its own."""
        return self.flavour == "tensorrt_rtx"

    @property
    def strongly_typed(self) -> bool:
        """Whether a network can be told to keep the types of its ONNX graph; 8.6 has flags of the builder instead."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    @property
    def highest_opset(self) -> int:
        """Of the ONNX files that its parser reads."""
        if self.is_rtx:
            return _RTX_HIGHEST_OPSET
        return next(opset for release, opset in _HIGHEST_OPSETS if self.release >= release)

    @property
    def dla_missing(self) -> str:
        """Why this version has no DLA; empty where it has."""
        if self.is_rtx:
            return f"{self.name} is for desktop GPUs, which have no DLA"
        if (11, 0) <= self.release < (11, 4):
            return (
                f"{self.name} has no DLA: 11.0 to 11.3 left it out; use TensorRT 10, or 11.4 on JetPack 7.2.2 and later"
            )
        return ""

    def hardware_levels(self) -> dict[str, Any]:
        """The levels of hardware compatibility that this version has, by our name."""
        levels = self.module.HardwareCompatibilityLevel
        names = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
        return {name.lower(): getattr(levels, name) for name in names if hasattr(levels, name)}


def choose_library(flavour: Flavour | None = None) -> Library:
    """Import the TensorRT that was asked for, else the one that is installed: TensorRT before TensorRT-RTX.

    Raises:
        ConfigError: no such flavour.
        BackendUnavailableError: it is not installed, does not import, or is too old.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise ConfigError.unknown("flavour", str(flavour), FLAVOURS)
    broken = []
    for candidate in (flavour,) if flavour is not None else FLAVOURS:
        try:
            library = Library(importlib.import_module(candidate), candidate)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != candidate:  # a library that it needs itself
                broken.append(f"{candidate} is installed, but does not import: {one_line(error)}")
            continue
        except ImportError as error:
            broken.append(f"{candidate} is installed, but does not import: {one_line(error)}")
            continue
        if not library.is_rtx and library.release < OLDEST:
            raise BackendUnavailableError(
                f"{library.name} is too old: engines are built with 8.6 and later (JetPack 6.0 and later)"
            )
        return library
    if broken:
        raise BackendUnavailableError("; ".join(broken))
    raise BackendUnavailableError(f"{TITLES[flavour] if flavour else 'TensorRT'} is not installed. {how_to_install()}")


def how_to_install() -> str:
    """What brings TensorRT to this machine and to others."""
    if on_jetson():
        return f"On this Jetson {ON_JETSON}"
    return (
        "Jetson: it comes with JetPack, and a virtual environment sees it when made with --system-site-packages. "
        "Server or workstation with an NVIDIA GPU: pip install 'autotimm-deploy[trt]'. "
        "Desktop RTX GPU, or to build without a GPU: pip install 'autotimm-deploy[trt-rtx]'"
    )
