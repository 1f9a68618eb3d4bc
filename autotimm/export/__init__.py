"""From checkpoint to artifact, with proof that the two are the same."""

from autotimm.export.onnx import export_to_onnx
from autotimm.export.reverification import verify

__all__ = ["export_to_onnx", "verify"]
