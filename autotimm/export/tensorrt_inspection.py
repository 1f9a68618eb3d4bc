"""Which precision the layers of an engine have: an engine that lost the one asked for is not what was exported."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotimm.runtime.errors import ExportError
from autotimm.runtime.manifest import Precision

_NEEDED: dict[Precision, str] = {"fp16": "float16", "int8": "int8"}
_NAMES = (
    (r"BF16|BFloat16|BFLOAT16", "bfloat16"),
    (r"FP16|Half|HALF", "float16"),
    (r"FP8", "float8"),
    (r"Int8|INT8", "int8"),
    (r"UInt8|UINT8", "uint8"),
    (r"Int64|INT64", "int64"),
    (r"Int32|INT32", "int32"),
    (r"Bool|BOOL", "bool"),
    (r"FP32|Float|FLOAT", "float32"),
)
"""Names of types in the texts of the inspector and of ``DataType``, and numpy's."""


@dataclass(frozen=True)
class Precisions:
    """How many layers compute in each type, and what that was read from."""

    layers: dict[str, int]
    source: str
    """``engine``; or ``parsed network (not inspected: ...)``, whose types a strongly typed engine keeps."""

    def check(self, asked: Precision, library: str, onnx_path: Path) -> None:
        """Refuse an engine without the precision that the artifact says it has.

        Raises:
            ExportError: no layer has it.
        """
        needed = _NEEDED.get(asked)
        if needed is not None and not self.layers.get(needed):
            found = ", ".join(f"{count} {name}" for name, count in self.layers.items())
            raise ExportError(
                f"{onnx_path}: {asked} was asked for, but {library} built no layer in it (layers: {found or 'none'}; "
                f"read from the {self.source}); this GPU may lack it: export with another --precision"
            )


def precisions_of(trt: Any, logger: Any, plan: Any, network: Any) -> Precisions:
    """Look into the engine where it can be loaded here, else at the network it was built from."""
    layers = _layers_of_engine(trt, logger, plan)
    counted = Counter(name for layer in layers or () for name in _types_of(layer))
    if counted:
        return Precisions(_sorted(counted), "engine")
    reason = "the inspector names no types" if layers else "the engine cannot be loaded here"
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs and (name := type_name(str(layer.get_output(0).dtype))):
            counted[name] += 1
    return Precisions(_sorted(counted), f"parsed network (not inspected: {reason})")


def _layers_of_engine(trt: Any, logger: Any, plan: Any) -> list[Any] | None:
    """What the inspector tells of each layer; ``None`` where the engine cannot be loaded."""
    try:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    except Exception:  # without a device each version raises something else, or nothing
        return None
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    return layers if isinstance(layers, list) else []


def type_name(text: str) -> str:
    """The name that numpy has for a type that a text of TensorRT speaks of; empty where it speaks of none."""
    if re.search(r"UInt8|UINT8", text):
        return "uint8"
    return next((name for pattern, name in _NAMES if re.search(pattern, text)), "")


def _types_of(layer: Any) -> set[str]:
    """Types of what a layer takes and gives: a convolution with int8 in and float out computes in int8."""
    if not isinstance(layer, dict):
        return set()
    tensors = [*layer.get("Inputs", []), *layer.get("Outputs", [])]
    formats = (str(tensor.get("Format/Datatype", "")) for tensor in tensors if isinstance(tensor, dict))
    return {name for name in map(type_name, formats) if name}


def _sorted(counted: Counter[str]) -> dict[str, int]:
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
