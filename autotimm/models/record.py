"""What a checkpoint says about the model whose weights it holds: plain types under one key."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import timm
import torch

from autotimm.models.custom_loss import RECORDED
from autotimm.runtime.environment import installed_version
from autotimm.runtime.errors import ConfigError
from autotimm.version import __version__

CHECKPOINT_KEY = "autotimm"
CHECKPOINT_SCHEMA = "autotimm.checkpoint/1"


def constructor_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that build the model of a checkpoint's record again, without the weights it once started from."""
    arguments = {**record["arguments"], "pretrained": False, "class_names": record["class_names"]}
    if isinstance(arguments.get("backbone"), Mapping):
        arguments["backbone"] = {**arguments["backbone"], "pretrained": False}
    if arguments.get("loss_fn") is not None:
        arguments["loss_fn"] = {RECORDED: arguments["loss_fn"]}
    if arguments.get("loss_fns"):
        arguments["loss_fns"] = {RECORDED: arguments["loss_fns"]}
    return arguments


def library_versions() -> dict[str, str]:
    """Versions of what computes a model's answers."""
    return {
        "autotimm": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "pytorch-lightning": installed_version("pytorch-lightning"),
    }


def plain(value: Any) -> Any:
    """Lists, dicts, numbers, strings: what ``torch.load(weights_only=True)`` and JSON both take."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):  # np.float64 is a float, but nothing that a safe pickle may hold
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{value!r} ({type(value).__name__}) cannot be recorded in a checkpoint; give it by name")
