"""timm backbones by name: creation, near matches for typing errors, and their own preprocessing."""

from __future__ import annotations

import difflib
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import timm
import timm.data
import timm.models
from torch import nn

from autotimm.runtime.errors import CheckpointError, ConfigError
from autotimm.runtime.preprocess import Fit, Preprocess


@dataclass(frozen=True)
class BackboneConfig:
    """A timm backbone and how to create it."""

    model_name: str = "resnet50"
    """A name of ``list_backbones()``."""
    pretrained: bool | str | Path = True
    """``True`` downloads timm's weights, a path reads them from a ``.safetensors`` or ``.pth`` file.

    A file's classifier is loaded where it is of the wanted number of classes. Of another number it is left out, and
    the classifier starts anew. A file without one starts it anew too, unless the number of classes is that of timm's
    own weights (1000, which have ImageNet's names): then it is an error.
    """
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    extra_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``timm.create_model``."""

    def __post_init__(self) -> None:
        if isinstance(self.pretrained, os.PathLike):  # checkpoints record plain types
            object.__setattr__(self, "pretrained", os.fspath(self.pretrained))


def list_backbones(pattern: str = "", pretrained_only: bool = False) -> list[str]:
    """Names of timm's architectures.

    Args:
        pattern: a shell pattern such as ``resnet*``; a plain word matches anywhere in the name.
        pretrained_only: only names for which timm has weights.
    """
    if pattern and not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    return list(timm.list_models(pattern, pretrained=pretrained_only))


def create_backbone(config: BackboneConfig, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` with errors that tell the way out.

    Args:
        config: which backbone, with which weights.
        **kwargs: ``num_classes``, ``features_only`` and whatever else the task needs.

    Raises:
        ConfigError: no such backbone (near matches are named), or arguments it does not take.
        CheckpointError: the pretrained weights could not be read or downloaded, or are not this backbone's.
    """
    return _create(config, kwargs)[0]


def create_classifier(config: BackboneConfig, num_classes: int) -> tuple[nn.Module, bool]:
    """A backbone with its classifier, and whether that classifier came with the weights.

    One that did not, beside weights that did, starts near chance (:func:`start_small`).

    Raises:
        ConfigError: as :func:`create_backbone`.
        CheckpointError: as :func:`create_backbone`; or a file without a classifier, where ``num_classes`` is that of
            timm's own weights.
    """
    network, has_trained_head = _create(config, {"num_classes": num_classes})
    if config.pretrained and not has_trained_head:
        start_small(cast("Any", network).get_classifier())
    return network, has_trained_head


def start_small(classifier: nn.Module) -> None:
    """Draw a new classifier for pretrained features so that training starts near chance.

    Some of timm's heads start far from it: EfficientNet's weights are up to 1 / sqrt(classes), whatever the features.
    """
    for module in classifier.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _create(config: BackboneConfig, kwargs: dict[str, Any]) -> tuple[nn.Module, bool]:
    """The backbone, and whether it has a classifier that came with its weights."""
    _check_name(config.model_name)
    arguments: dict[str, Any] = {**config.extra_kwargs, **kwargs}
    if config.drop_rate:
        arguments["drop_rate"] = config.drop_rate
    if config.drop_path_rate:
        arguments["drop_path_rate"] = config.drop_path_rate
    if isinstance(config.pretrained, str) and not Path(config.pretrained).is_file():
        raise CheckpointError(f"{config.pretrained}: no such file of backbone weights for {config.model_name}")
    try:
        model: Any = timm.create_model(config.model_name, pretrained=config.pretrained is True, **arguments)
        if isinstance(config.pretrained, str):
            return model, _load_file(model, config.pretrained)
    except TypeError as error:
        raise ConfigError(f"backbone {config.model_name} cannot be created: {error}") from error
    except Exception as error:
        if not config.pretrained:
            raise ConfigError(f"backbone {config.model_name} cannot be created: {_one_line(error)}") from error
        raise CheckpointError(_weights_message(config, error)) from error
    if not config.pretrained:
        return model, False
    return model, getattr(model, "num_classes", None) == model.pretrained_cfg["num_classes"]


def preprocess_of(model: nn.Module) -> Preprocess:
    """The evaluation preprocessing that belongs to a timm model's pretrained weights.

    Raises:
        ConfigError: the model wants something that ``Preprocess`` does not describe.
    """
    data: dict[str, Any] = cast("Any", timm.data.resolve_model_data_config)(model)
    fits: dict[str, Fit] = {"center": "crop", "squash": "stretch"}
    if data["crop_mode"] not in fits:  # timm's "border" pads with a colour, and rounds otherwise than a letterbox here
        raise ConfigError(f"the backbone prepares its images by timm's {data['crop_mode']!r}, which AutoTimm does not")
    interpolation: Any = "bilinear" if data["interpolation"] == "random" else data["interpolation"]
    channels, height, width = data["input_size"]
    if channels != 3:
        raise ConfigError(f"the backbone takes {channels} input channels; AutoTimm feeds RGB images (3 channels)")
    mean, std = (tuple(255.0 * value for value in data[key]) for key in ("mean", "std"))
    return Preprocess(
        size=(height, width),
        fit=fits[data["crop_mode"]],
        interpolation=interpolation,
        antialias=True,
        crop_fraction=data["crop_pct"],
        mean=mean,
        std=std,
    )


def imagenet_class_names(num_classes: int) -> tuple[str, ...] | None:
    """The names of ImageNet-1k's classes in the order that timm's classifiers use, for a classifier of 1000 classes."""
    if num_classes != 1000:
        return None
    info = timm.data.ImageNetInfo()
    short = [info.index_to_description(index).split(",")[0] for index in range(1000)]
    repeated = {name for name, count in Counter(short).items() if count > 1}  # the crane is a bird and a machine
    return tuple(
        f"{name} ({info.index_to_label_name(index)})" if name in repeated else name for index, name in enumerate(short)
    )


def _check_name(name: str) -> None:
    is_elsewhere = ":" in name  # timm's own hf-hub:owner/model and local-dir:folder
    if is_elsewhere or timm.is_model(name.split(".", maxsplit=1)[0]):
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=4)
    hint = f"did you mean {', '.join(near)}?" if near else "see: autotimm backbones"
    raise ConfigError(f"there is no backbone {name!r}; {hint}")


def _load_file(model: Any, path: str) -> bool:
    """Load a file with timm's key names; a classifier of another number of classes is left out.

    timm alone would go by the number of classes of its own weights, not of the file's, and would leave whatever else
    the file lacks at random.

    Returns:
        Whether the file's classifier was loaded.

    Raises:
        ValueError: the file lacks a tensor of the backbone, or holds others; or it lacks the classifier of timm's own
            number of classes.
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
        {
            **settings,
            "source": None,
            "classifier": None,  # the head is settled here
            "state_dict": timm.models.load_state_dict(path, weights_only=True),
        },
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


class _Head:
    """The classifier of a timm model, and what becomes of the one in a file."""

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


def _weights_message(config: BackboneConfig, error: Exception) -> str:
    if isinstance(config.pretrained, str):
        return f"{config.pretrained}: not usable as weights of {config.model_name}: {_one_line(error)}"
    return (
        f"the pretrained weights of {config.model_name} could not be had ({_one_line(error)}). Without network access, "
        "give pretrained='FILE.safetensors' (autotimm train: --set weights=FILE.safetensors) with weights you have "
        "downloaded, or pretrained=False to start from random weights"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
