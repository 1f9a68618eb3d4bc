"""timm backbones by name: lists, creation, near matches for typing errors, and their own preprocessing."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import timm
import timm.data
import timm.layers
from torch import nn

from autotimm.models.backbone_sources import describe_source
from autotimm.models.backbone_weights import has_source, load_weights, named, unavailable
from autotimm.models.memory_layout import guard_strided_convolutions
from autotimm.models.record import plain
from autotimm.runtime.errors import CheckpointError, ConfigError
from autotimm.runtime.preprocess import Fit, Preprocess


@dataclass(frozen=True)
class BackboneConfig:
    """A timm backbone and how to create it."""

    model_name: str = "resnet50"
    """A name of ``list_backbones()``, ``hf-hub:owner/name``, or ``local-dir:folder``.

    The last two are timm's: a ``config.json``, which says what the network is, with the weights beside it.
    """
    pretrained: bool | str | Path = True
    """``True`` takes the weights that belong to the name, a path reads them from a ``.safetensors`` or ``.pth`` file.

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

    @classmethod
    def of(
        cls, backbone: str | BackboneConfig | Mapping[str, Any], pretrained: bool | str | Path = True
    ) -> BackboneConfig:
        """From whatever a model takes as its ``backbone``.

        Args:
            backbone: a name, a configuration, or one as a checkpoint or a YAML file writes it.
            pretrained: for a name alone.

        Raises:
            ConfigError: a mapping with other keys.
        """
        if isinstance(backbone, str):
            return cls(backbone, pretrained=pretrained)
        if isinstance(backbone, cls):
            return backbone
        try:
            return cls(**cast("Any", backbone))
        except TypeError as error:
            raise ConfigError(f"backbone is {backbone!r}, which is not a BackboneConfig: {error}") from error


@dataclass(frozen=True)
class CreatedBackbone:
    """A classifying network, and what is known of it."""

    network: nn.Module
    has_trained_head: bool
    """Whether its classifier came with the weights."""
    config: BackboneConfig
    """How timm creates it, with nothing to be looked up elsewhere and in plain types only, as checkpoints record it."""
    class_names: tuple[str, ...] | None
    """What its weights' classes are called, where it has as many: their own names, or those of ImageNet-1k."""


def list_backbones(pattern: str = "", pretrained_only: bool = False) -> list[str]:
    """Names of timm's architectures, or of its weights: ``architecture.tag``.

    Args:
        pattern: a shell pattern such as ``resnet*``; a plain word matches anywhere in the name. With a dot it is about
            weights: ``resnet50.a1_in1k``, or ``*.in22k``, where the part after the dot is a word of its own. A word
            that is in no architecture's name is looked for in those of weights.
        pretrained_only: only names for which timm has weights, each with its tags.

    Returns:
        The names in natural order; none where nothing matches.
    """
    pattern = pattern.strip().lower()
    architecture, dot, tag = pattern.partition(".")
    if dot:
        filters = f"{architecture}.{_anywhere(tag)}" if _is_shell_pattern(pattern) else _anywhere(pattern)
        return list(timm.list_models(filters, pretrained=pretrained_only, include_tags=True))
    found = list(timm.list_models(_anywhere(pattern), pretrained=pretrained_only))
    if found or _is_shell_pattern(pattern):
        return found
    return list(timm.list_models(f"*.{_anywhere(pattern)}", pretrained=pretrained_only, include_tags=True))


def create_backbone(config: BackboneConfig, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` with errors that tell the way out.

    Args:
        config: which backbone, with which weights.
        **kwargs: ``num_classes``, ``features_only`` and whatever else the task needs.

    Raises:
        ConfigError: no such backbone (near matches are named), or arguments it does not take.
        CheckpointError: the pretrained weights could not be read or downloaded, or are not this backbone's.
    """
    return _create(_resolve(config)[0], kwargs, config.model_name)[0]


def create_classifier(config: BackboneConfig, num_classes: int) -> CreatedBackbone:
    """A backbone with its classifier.

    A classifier that did not come with the weights, where there are any, starts near chance (:func:`start_small`).

    Raises:
        ConfigError: as :func:`create_backbone`; or arguments that no checkpoint can record.
        CheckpointError: as :func:`create_backbone`; or a file without a classifier, where ``num_classes`` is that of
            timm's own weights.
    """
    resolved, label_names = _resolve(config)
    network, has_trained_head = _create(resolved, {"num_classes": num_classes}, config.model_name)
    if config.pretrained and not has_trained_head:
        classifiers = cast("Any", network).get_classifier()
        for classifier in classifiers if isinstance(classifiers, tuple | list) else (classifiers,):
            start_small(classifier)
    own_names = label_names if label_names is not None and len(label_names) == num_classes else None
    return CreatedBackbone(network, has_trained_head, resolved, own_names or imagenet_class_names(num_classes))


def create_without_classifier(config: BackboneConfig, **kwargs: Any) -> tuple[nn.Module, BackboneConfig]:
    """A backbone for features, with nothing on top, and how timm creates it (as :class:`CreatedBackbone` has it).

    Args:
        config: which backbone, with which weights.
        **kwargs: further arguments, which are not recorded.

    Raises:
        ConfigError: as :func:`create_backbone`.
        CheckpointError: as :func:`create_backbone`.
    """
    resolved, _ = _resolve(config)
    return _create(resolved, {"num_classes": 0, **kwargs}, config.model_name)[0], resolved


def start_small(classifier: nn.Module) -> None:
    """Draw a new classifier for pretrained features so that training starts near chance.

    Some of timm's heads start far from it: EfficientNet's weights are up to 1 / sqrt(classes), whatever the features.
    """
    for module in classifier.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _resolve(config: BackboneConfig) -> tuple[BackboneConfig, tuple[str, ...] | None]:
    """The same with everything that is described elsewhere, and the names of its weights' classes."""
    name, arguments, label_names = config.model_name, config.extra_kwargs, None
    if ":" in name:
        source = describe_source(name)
        name, label_names = source.architecture, source.label_names
        arguments = {**source.arguments, "pretrained_cfg": source.pretrained_cfg, **arguments}
    else:
        _check_name(name)
    return replace(config, model_name=name, extra_kwargs=plain(arguments)), label_names


def _create(config: BackboneConfig, kwargs: dict[str, Any], name: str) -> tuple[nn.Module, bool]:
    """The backbone, and whether it has a classifier that came with its weights.

    Args:
        config: with nothing to be looked up.
        kwargs: further arguments.
        name: as the user gave it.
    """
    arguments: dict[str, Any] = {**config.extra_kwargs, **kwargs}
    if config.drop_rate:
        arguments["drop_rate"] = config.drop_rate
    if config.drop_path_rate:
        arguments["drop_path_rate"] = config.drop_path_rate
    file = config.pretrained if isinstance(config.pretrained, str) else None
    if file is not None and not Path(file).is_file():
        raise CheckpointError(f"{file}: no such file of backbone weights for {name}")
    # timm's own names are left to timm, and so are feature extractors; what lies elsewhere must fit in every tensor
    has_own = has_source(arguments.get("pretrained_cfg")) and not arguments.get("features_only")
    is_read_here = file is not None or has_own
    by_timm = config.pretrained is True and not is_read_here
    try:
        model: Any = timm.create_model(config.model_name, pretrained=by_timm, **arguments)
    except Exception as error:
        if by_timm and not isinstance(error, TypeError):
            raise CheckpointError(unavailable(name, error)) from error
        raise ConfigError(f"backbone {name} cannot be created: {named(error)}") from error
    if by_timm:
        has_trained_head = getattr(model, "num_classes", 0) == model.pretrained_cfg.get("num_classes")
    else:
        has_trained_head = bool(config.pretrained) and load_weights(model, name, file)
    if arguments.get("img_size") and model.pretrained_cfg.get("fixed_input_size"):
        height, width = timm.layers.to_2tuple(arguments["img_size"])
        model.pretrained_cfg["input_size"] = (model.pretrained_cfg["input_size"][0], height, width)
    guard_strided_convolutions(model)
    return model, has_trained_head


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
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        if "/" in name:  # of a repository, or of a folder
            raise ConfigError(f"there is no backbone {name!r}; did you mean hf-hub:{name} or local-dir:{name}?")
        near = difflib.get_close_matches(name, timm.list_models(), n=4)
        hint = f"did you mean {', '.join(near)}?" if near else "see: autotimm backbones"
        raise ConfigError(f"there is no backbone {name!r}; {hint}")
    tagged = timm.list_models(f"{architecture}.*", include_tags=True) if tag else []
    if tagged and name not in tagged:
        raise ConfigError(f"timm {timm.__version__} has no weights {name!r}; it has {', '.join(tagged)}")


def _is_shell_pattern(text: str) -> bool:
    return bool(set(text) & set("*?["))


def _anywhere(text: str) -> str:
    """A shell pattern as it is, and a plain word as one that matches anywhere."""
    return text if _is_shell_pattern(text) or not text else f"*{text}*"
