"""What is known about a TensorRT engine: the file ``NAME.engine.json`` beside the plain plan ``NAME.engine``.

A plan holds no metadata of ours, and trtexec, Triton and DeepStream must still load it; so its manifest lies beside it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autotimm.runtime.errors import ArtifactError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
"""Importable name of the library: TensorRT for servers and Jetson, TensorRT-RTX for desktops."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class ProfileRange:
    """The shapes of one input that an engine takes, and the one that it is fastest at."""

    minimum: Shape
    best: Shape
    maximum: Shape


@dataclass(frozen=True)
class EngineRecord:
    """Where and how an engine was built: what decides whether it can run somewhere."""

    flavour: Flavour
    version: str
    """Of the library that built it; an engine is read by the same version, if it was not made version compatible."""
    platform: str
    """``linux-x86_64``, ``linux-aarch64``: an engine never moves between them."""
    gpu: str = ""
    """Name of the device it was built for; empty where it was built without one."""
    compute_capability: str = ""
    """``8.7``; empty where there was no device."""
    cuda: str = ""
    """Version that the driver supports: ``12.6``."""
    profile: dict[str, ProfileRange] = field(default_factory=dict)
    """Shapes by the name of the input."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the build that differ from the library's own."""
    precisions: dict[str, int] = field(default_factory=dict)
    """How many layers give each type: ``{"float16": 61, "float32": 12}``."""
    inspected: str = ""
    """What the precisions were read from: ``engine``, or ``parsed network`` and why not the engine."""
    plan_sha256: str = ""
    onnx_sha256: str = ""
    """Of the whole ONNX file that it was built from."""
    build_seconds: float = 0.0
    remarks: tuple[str, ...] = ()
    """What the builder warned of, in our words where we have them."""

    @property
    def version_compatible(self) -> bool:
        """Whether newer versions of the library may read it."""
        return bool(self.options.get("version_compatible"))

    @property
    def hardware_compatibility(self) -> str:
        """``none``, ``ampere_plus`` or ``same_compute_capability``."""
        return str(self.options.get("hardware_compatibility", "none"))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineRecord:
        """The inverse of :func:`dataclasses.asdict`; what this version does not know is left out.

        Raises:
            KeyError: a field that every engine has is missing.
            TypeError, ValueError: a field is of another kind.
        """
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        for name in ("flavour", "version", "platform"):
            known[name] = str(data[name])
        if known["flavour"] not in ("tensorrt", "tensorrt_rtx"):
            raise ValueError(f"its flavour is {known['flavour']!r}")
        known["profile"] = {
            name: ProfileRange(*(tuple(int(side) for side in shapes[part]) for part in _PARTS))
            for name, shapes in data.get("profile", {}).items()
        }
        known["remarks"] = tuple(data.get("remarks", ()))
        return cls(**known)


_PARTS = ("minimum", "best", "maximum")


def sidecar_of(engine: str | os.PathLike[str]) -> Path:
    """Where the manifest of an engine lies: ``yolox.engine`` has ``yolox.engine.json``."""
    path = Path(engine)
    return path.with_name(f"{path.name}.json")


def read_sidecar(engine: str | os.PathLike[str]) -> str:
    """The text beside an engine.

    Raises:
        ArtifactError: there is none.
    """
    path = sidecar_of(engine)
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{engine}: {path.name} is not beside it, which says what the engine is: copy both files, or build it "
            "again with: autotimm build MODEL.onnx"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); build the engine again") from error
    return text


def this_platform() -> str:
    """Operating system and processor, as in :attr:`EngineRecord.platform`."""
    return f"{platform.system()}-{platform.machine()}".lower()
