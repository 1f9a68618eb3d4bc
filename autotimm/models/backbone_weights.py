"""Weights of backbones, with timm's key names: all must fit but a classifier of another number of classes."""

from __future__ import annotations

import sys
from typing import Any

import timm.models
from timm.models import _hub as timm_hub
from torch import nn

from autotimm.runtime.errors import CheckpointError

SOURCES = ("hf-hub", "local-dir")


def has_source(settings: Any) -> bool:
    """Whether timm's settings of some weights, where there are any, tell where they are beside their description."""
    return isinstance(settings, dict) and settings.get("source") in SOURCES and not settings.get("custom_load")


def load_weights(model: Any, name: str, file: str | None = None) -> bool:
    """Load weights with timm's key names; a classifier of another number of classes is left out.

    Args:
        model: of timm. Without a file its settings have a source (:func:`has_source`).
        name: of the backbone, as the user gave it.
        file: ``.safetensors`` or ``.pth``.

    Returns:
        Whether the weights' classifier was loaded.

    Raises:
        CheckpointError: the weights cannot be read, or lack a tensor of the backbone, or hold others; or they lack the
            classifier of timm's own number of classes.
    """
    try:
        state = _read_source(model.pretrained_cfg) if file is None else _read_file(file)
    except Exception as error:
        if file is None and model.pretrained_cfg["source"] == "hf-hub":
            raise CheckpointError(unavailable(name, error)) from error
        raise CheckpointError(_unusable(name, file, error)) from error
    try:
        return _fit(model, state)
    except Exception as error:
        raise CheckpointError(_unusable(name, file, error)) from error


def _read_file(path: str) -> dict[str, Any]:
    state: dict[str, Any] = timm.models.load_state_dict(path, weights_only=True)
    return state


def _read_source(settings: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any]
    if settings["source"] == "local-dir":
        state = timm_hub.load_state_dict_from_path(settings["file"], weights_only=True)
    else:
        place = {"filename": settings["hf_hub_filename"]} if settings.get("hf_hub_filename") else {}
        state = timm_hub.load_state_dict_from_hf(settings["hf_hub_id"], weights_only=True, **place)
    return state


def _fit(model: Any, state: dict[str, Any]) -> bool:
    """Load tensors; whether they included the classifier.

    timm alone would go by the number of classes of its own weights, not of these, and would leave whatever else they
    lack at random.
    """
    settings: dict[str, Any] = model.pretrained_cfg
    head = _Head(model)
    missing: list[str] = []
    foreign: list[str] = []

    def note(_: nn.Module, keys: Any) -> None:
        missing.extend(key for key in keys.missing_keys if head.is_loaded or not head.holds(key))
        foreign.extend(keys.unexpected_keys)

    hooks = [model.register_load_state_dict_pre_hook(head.settle), model.register_load_state_dict_post_hook(note)]
    load: Any = timm.models.load_pretrained
    load(
        model,
        {**settings, "source": None, "classifier": None, "state_dict": state},  # the head is settled here
        # By timm's convention; it converts the key names of a family's original releases.
        filter_fn=getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None),
        strict=False,
    )
    for hook in hooks:
        hook.remove()
    if missing or foreign:
        examples = ", ".join([*missing[:2], *foreign[:2]])
        raise ValueError(f"{len(missing)} tensors are missing and {len(foreign)} are not its own, such as {examples}")
    if head.is_absent and model.num_classes == settings["num_classes"]:
        raise ValueError(
            f"it has no classifier, which {model.num_classes} classes are expected to come with; "
            "give num_classes of your own data to train a new one"
        )
    return head.is_loaded


def unavailable(name: str, error: Exception) -> str:
    """The message where weights, or their description, could not be downloaded.

    Args:
        name: the backbone, as the user gave it.
        error: what went wrong.
    """
    if ":" in name:
        repository = name.partition(":")[2].partition("@")[0]
        return (
            f"{name} could not be had ({named(error)}). Without network access, download it where there is one (hf "
            f"download {repository} --local-dir FOLDER) and give local-dir:FOLDER as the backbone, or give the name of "
            "its architecture with pretrained='FILE.safetensors'"
        )
    return (
        f"the pretrained weights of {name} could not be had ({named(error)}). Without network access, "
        "give pretrained='FILE.safetensors' (autotimm train: --set weights=FILE.safetensors) with weights you have "
        "downloaded, or pretrained=False to start from random weights"
    )


def _unusable(name: str, file: str | None, error: Exception) -> str:
    if file is not None:
        return f"{file}: not usable as weights of {name}: {named(error)}"
    return f"{name}: its weights cannot be used: {named(error)}; give pretrained=False to start from random weights"


def named(error: Exception) -> str:
    """An exception on one line, with its class."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


class _Head:
    """The classifier of a timm model, and what becomes of the one in some weights."""

    def __init__(self, model: Any) -> None:
        names = model.pretrained_cfg.get("classifier") or ()
        self.prefixes = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
        self.background_classes: int = model.pretrained_cfg.get("label_offset") or 0
        self.own = {key: value.shape for key, value in model.state_dict().items() if self.holds(key)}
        self.is_loaded = self.is_absent = False

    def holds(self, key: str) -> bool:
        """Whether a tensor of this name is the classifier's."""
        return key.startswith(self.prefixes)

    def settle(self, _: nn.Module, state: dict[str, Any], *rest: Any) -> None:
        """Hook of torch before loading: take the file's classifier out where it is of another number of classes."""
        found = [key for key in state if self.holds(key)]
        self.is_absent = bool(self.own) and not found
        for key in found:
            if self.background_classes and len(state[key]) == self.own.get(key, (0,))[0] + self.background_classes:
                state[key] = state[key][self.background_classes :]
        self.is_loaded = bool(found) and all(self.own.get(key) == state[key].shape for key in found)
        if not self.is_loaded:
            for key in found:
                del state[key]
