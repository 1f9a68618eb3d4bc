"""ONNX Runtime sessions that give values inside a graph, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnxruntime


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that gives some of its inner values too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def open_session(proto: onnx.ModelProto) -> Any:
    """An ONNX Runtime session on the CPU, without its words about inner outputs, which carry no type."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several are open at a time
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
