"""Official YOLOX checkpoints: read strictly, with the size and the class count taken from their keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotimm.models.torch_files import read_torch_file
from autotimm.models.yolox.network import YOLOXNetwork
from autotimm.models.yolox.sizes import YOLOXSize, find_size, list_yolox_models
from autotimm.runtime.errors import CheckpointError

_STEM = "backbone.backbone.stem.conv.conv.weight"
_CLASSES = "head.cls_preds.0.weight"


def read_official(path: str | Path) -> tuple[YOLOXSize, int, dict[str, Tensor]]:
    """Read an official checkpoint: ``{"model": state dict, ...}`` or a bare state dict. No code in it is executed.

    Args:
        path: the ``.pth`` file.

    Returns:
        ``(size, num_classes, state_dict)``; the state dict fits ``YOLOXNetwork(size, num_classes)`` exactly, with
        floating-point entries in float32 on the CPU.

    Raises:
        CheckpointError: the file is unreadable, damaged, not a YOLOX, or its keys or shapes are not those of its size.
    """
    state = _state_dict(read_torch_file(path), path)
    for key in (_STEM, _CLASSES):
        if key not in state or state[key].ndim != 4:
            raise CheckpointError(f"{path}: not an official YOLOX checkpoint: it has no convolution {key!r}")
    size, num_classes = _size_of(state, path), len(state[_CLASSES])
    with torch.device("meta"):
        expected = YOLOXNetwork(size, num_classes).state_dict()
    _compare(state, expected, f"{path}: not a {size.name} of {num_classes} classes")
    return size, num_classes, {key: state[key].to(expected[key].dtype) for key in expected}


def _state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path}: not an official YOLOX checkpoint, which is a state dict, alone or under the key 'model'"
        )
    return {str(key): value for key, value in state.items()}


def _size_of(state: Mapping[str, Tensor], path: str | Path) -> YOLOXSize:
    channels = len(state[_STEM])
    for name in list_yolox_models():
        size = find_size(name)
        if size.stem_channels == channels:  # no two official sizes have the same width
            return size
    raise CheckpointError(f"{path}: a YOLOX whose stem has {channels} channels is none of the official sizes")


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [_few(*fault) for fault in (("missing", missing), ("extra", extra), ("wrongly shaped", wrong)) if fault[1]]
    if faults:
        raise CheckpointError(f"{what}: {'; '.join(faults)}")


def _few(kind: str, keys: list[str]) -> str:
    listed = ", ".join(keys[:3])
    return f"{len(keys)} {kind} {'key' if len(keys) == 1 else 'keys'} ({listed}{', ...' if len(keys) > 3 else ''})"
