"""Tensors as the Open Inference Protocol writes them: in JSON, or as bytes behind the JSON (the binary extension)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.manifest import TensorSpec
from autotimm.serving.request_errors import RequestError

DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""numpy's name of a type to the protocol's."""


@dataclass(frozen=True)
class RequestedOutput:
    """One output that a request asks for."""

    name: str
    binary: bool
    classes: int = 0
    """Where more than 0: the best so many classes as ``value:index:label`` (Triton's classification extension)."""


@dataclass(frozen=True)
class InferRequest:
    """One request, understood."""

    inputs: dict[str, NDArray[np.generic]]
    outputs: tuple[RequestedOutput, ...]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


def read_request(
    body: bytes, header_length: int | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> InferRequest:
    """Understand the body of an ``infer`` request.

    Args:
        body: JSON, and behind it the bytes of the binary tensors.
        header_length: bytes of the JSON, from ``Inference-Header-Content-Length``; all of the body where absent.
        inputs: what the model takes.
        outputs: what it gives.

    Raises:
        RequestError: 400 with what is wrong.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise RequestError(
            400, f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes"
        )
    try:
        content = json.loads(body if header_length is None else body[:header_length])
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(400, "the request must be a JSON object")
    parameters = _parameters(content)
    tensors = _objects(content, "inputs")
    rest = memoryview(body)[len(body) if header_length is None else header_length :]
    arrays, used = _read_inputs(tensors, rest, inputs)
    if used != len(rest):
        raise RequestError(400, f"{len(rest) - used} bytes lie behind the last binary tensor")
    identity = content.get("id", "")
    if not isinstance(identity, str):
        raise RequestError(400, f"id must be a string, but is {_shown(identity)}")
    return InferRequest(arrays, _requested(content, parameters, outputs), identity, parameters)


def write_response(
    model: tuple[str, str], request: InferRequest, outputs: Mapping[str, NDArray[np.generic]], labels: Sequence[str]
) -> tuple[bytes, int | None]:
    """The body of the answer.

    Args:
        model: its name and version.
        request: which outputs, and how.
        outputs: of the engine, by name.
        labels: class names, for the classification extension.

    Returns:
        The body, and how many of its bytes are JSON where binary tensors lie behind that.

    Raises:
        RequestError: 500 where a number cannot be said in JSON.
    """
    entries: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for wanted in request.outputs:
        values = outputs[wanted.name]
        entry: dict[str, Any] = {"name": wanted.name}
        if wanted.classes:
            texts = _classified(values, wanted.classes, labels)
            entry |= {"datatype": "BYTES", "shape": [len(texts), len(texts[0]) if texts else 0]}
            data: Any = [text for row in texts for text in row]
            encoded = [text.encode() for text in data]
            blob = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
        else:
            entry |= {"datatype": DATATYPES[values.dtype.name], "shape": list(values.shape)}
            blob = np.ascontiguousarray(values).tobytes() if wanted.binary else b""
            data = None if wanted.binary else values.ravel().tolist()
        if wanted.binary:
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            entry["data"] = data
        entries.append(entry)
    content: dict[str, Any] = {"id": request.id} if request.id else {}
    content |= {"model_name": model[0], "model_version": model[1], "outputs": entries}
    try:
        header = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise RequestError(500, "an output is not finite, which JSON cannot say; ask for binary data") from error
    return b"".join([header, *blobs]), len(header) if blobs else None


def _read_inputs(
    tensors: Sequence[Mapping[str, Any]], rest: memoryview, specs: Sequence[TensorSpec]
) -> tuple[dict[str, NDArray[np.generic]], int]:
    known = {spec.name: spec for spec in specs}
    names = [tensor.get("name") for tensor in tensors]
    if sorted(map(str, names)) != sorted(known):
        raise RequestError(400, f"the inputs are {_shown(names)}, but the model takes {', '.join(map(str, specs))}")
    arrays: dict[str, NDArray[np.generic]] = {}
    place = 0
    for tensor in tensors:
        spec = known[tensor["name"]]
        shape = _checked_shape(tensor, spec)
        size = _parameters(tensor).get("binary_data_size")
        if size is None:
            arrays[spec.name] = _from_json(tensor, spec, shape)
            continue
        wanted = math.prod(shape) * np.dtype(spec.dtype).itemsize
        if size != wanted or isinstance(size, bool):
            raise RequestError(
                400, f"input {spec.name}: binary_data_size is {_shown(size)}, but its shape needs {wanted}"
            )
        if place + wanted > len(rest):
            raise RequestError(
                400, f"input {spec.name}: {wanted} bytes of binary data, but only {len(rest) - place} came"
            )
        arrays[spec.name] = np.frombuffer(rest[place : place + wanted], spec.dtype).reshape(shape)
        place += wanted
    return arrays, place


def _checked_shape(tensor: Mapping[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if datatype != DATATYPES[spec.dtype]:
        raise RequestError(
            400, f"input {spec.name}: the datatype is {_shown(datatype)}, but must be {DATATYPES[spec.dtype]}"
        )
    numbers = shape if isinstance(shape, list) else []
    fits = len(numbers) == len(spec.shape) and all(type(side) is int and side > 0 for side in numbers)
    if not fits or any(isinstance(want, int) and side != want for side, want in zip(numbers, spec.shape, strict=True)):
        raise RequestError(400, f"input {spec.name}: the shape is {_shown(shape)}, but the model takes {spec}")
    return tuple(numbers)


def _from_json(tensor: Mapping[str, Any], spec: TensorSpec, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Numbers in a flat list, or in lists inside lists."""
    data = tensor.get("data")
    if not isinstance(data, list):
        raise RequestError(400, f"input {spec.name}: has neither 'data' nor a 'binary_data_size'")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise RequestError(400, f"input {spec.name}: the data are not numbers of one shape") from error
    dtype = np.dtype(spec.dtype)
    if values.dtype.kind not in ("iu" if dtype.kind in "iu" else "iuf") or values.size != math.prod(shape):
        raise RequestError(
            400,
            f"input {spec.name}: the data are {values.size} values of type {values.dtype.name}, but the shape needs "
            f"{math.prod(shape)} of type {spec.dtype}",
        )
    if dtype.kind in "iu":
        limits, low, high = np.iinfo(dtype), values.min(), values.max()
        if low < limits.min or high > limits.max:
            raise RequestError(400, f"input {spec.name}: values {low}..{high} are outside {limits.min}..{limits.max}")
    return values.astype(dtype).reshape(shape)


def _requested(
    content: Mapping[str, Any], parameters: Mapping[str, Any], specs: Sequence[TensorSpec]
) -> tuple[RequestedOutput, ...]:
    names = [spec.name for spec in specs]
    binary = parameters.get("binary_data_output", False) is True
    entries = _objects(content, "outputs") if content.get("outputs") is not None else []
    if not entries:
        return tuple(RequestedOutput(name, binary) for name in names)
    wanted = []
    for entry in entries:
        name = entry.get("name")
        if name not in names:
            raise RequestError(400, f"there is no output {_shown(name)}; the model gives {', '.join(names)}")
        own = _parameters(entry)
        classes = own.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise RequestError(
                400, f"output {name}: classification is {_shown(classes)}, but must be a number of classes"
            )
        if "shared_memory_region" in own:
            raise RequestError(400, f"output {name}: shared memory is not supported")
        wanted.append(RequestedOutput(str(name), own.get("binary_data", binary) is True, classes))
    if len({output.name for output in wanted}) < len(wanted):
        raise RequestError(400, "an output is asked for twice")
    return tuple(wanted)


def _classified(values: NDArray[np.generic], count: int, labels: Sequence[str]) -> list[list[str]]:
    """For each row the ``count`` largest values, as ``value:index:label``."""
    rows = []
    for row in values.reshape(len(values), -1).astype(np.float64):
        best = np.argsort(-row, kind="stable")[:count]
        named = len(row) == len(labels)
        rows.append([f"{row[i]:f}:{i}" + (f":{labels[i]}" if named else "") for i in best])
    return rows


def _objects(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise RequestError(400, f"{key!r} must be a list of objects")
    return found


def _parameters(content: Mapping[str, Any]) -> dict[str, Any]:
    found = content.get("parameters", {})
    if not isinstance(found, dict):
        raise RequestError(400, "'parameters' must be an object")
    return found


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:97] + "..."
