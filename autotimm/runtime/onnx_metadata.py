"""The metadata of an ONNX file, read without onnx and without preparing the model to run.

An ONNX file is one protobuf message, of which only field 14 (``metadata_props``, entries of a key and a value:
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, ``ModelProto``) is wanted here. The weights lie in another field
and are skipped, so that reading takes as long for a large model as for a small one. The wire format:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.files import check_file

_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, _METADATA_PROPS, 20, 25, 26}
_LONGEST_VARINT = 10


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Every entry of a model's metadata.

    Raises:
        ArtifactError: the file is missing, empty, cut off or no ONNX model.
    """
    file_path = Path(path)
    check_file(file_path)
    try:
        with file_path.open("rb") as file:
            return _metadata(file, file_path.stat().st_size)
    except (ValueError, EOFError) as error:
        raise ArtifactError(
            f"{file_path}: is not a whole ONNX model ({error}); copy it again, or export the model again"
        ) from error


def _metadata(file: BinaryIO, end: int) -> dict[str, str]:
    entries = {}
    while file.tell() < end:
        number, kind = _tag(file)
        if number not in _MODEL_FIELDS:
            raise ValueError(f"no model has a field {number}")
        if kind == _BYTES:
            length = _varint(file)
            if file.tell() + length > end:
                raise EOFError("the file is cut off")
            if number == _METADATA_PROPS:
                key, value = _entry(file, file.tell() + length)
                entries[key] = value
            else:
                file.seek(length, os.SEEK_CUR)
        else:
            _skip_number(file, kind)
    return entries


def _entry(file: BinaryIO, end: int) -> tuple[str, str]:
    """One ``StringStringEntryProto``."""
    texts = {_KEY: "", _VALUE: ""}
    while file.tell() < end:
        number, kind = _tag(file)
        if kind != _BYTES:
            raise ValueError("an entry of the metadata is no text")
        texts[number] = _exactly(file, _varint(file)).decode("utf-8")
    return texts[_KEY], texts[_VALUE]


def _tag(file: BinaryIO) -> tuple[int, int]:
    """Number of a field and how its value is encoded."""
    tag = _varint(file)
    return tag >> 3, tag & 7


def _varint(file: BinaryIO) -> int:
    value = 0
    for index in range(_LONGEST_VARINT):
        byte = _exactly(file, 1)[0]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value
    raise ValueError("a number is too long")


def _skip_number(file: BinaryIO, kind: int) -> None:
    if kind == _VARINT:
        _varint(file)
    elif kind in (_FIXED64, _FIXED32):
        _exactly(file, 8 if kind == _FIXED64 else 4)
    else:
        raise ValueError(f"no field is encoded as {kind}")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError("the file is cut off")
    return data
