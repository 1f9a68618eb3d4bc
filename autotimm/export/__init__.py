"""From checkpoint to artifact, with proof that the two are the same.

Nothing is imported before it is used: an engine is built from an ONNX artifact where there is no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotimm.export.calibration import CalibrationSettings
    from autotimm.export.onnx import export_to_onnx
    from autotimm.export.tensorrt import export_to_tensorrt
    from autotimm.export.torchscript import export_to_torchscript
    from autotimm.export.triton import write_repository
    from autotimm.export.verifying import verify

_HOMES = {
    "CalibrationSettings": "autotimm.export.calibration",
    "export_to_onnx": "autotimm.export.onnx",
    "export_to_tensorrt": "autotimm.export.tensorrt",
    "export_to_torchscript": "autotimm.export.torchscript",
    "verify": "autotimm.export.verifying",
    "write_repository": "autotimm.export.triton",
}

__all__ = [
    "CalibrationSettings",
    "export_to_onnx",
    "export_to_tensorrt",
    "export_to_torchscript",
    "verify",
    "write_repository",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autotimm.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
