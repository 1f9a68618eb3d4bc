"""Backbones that are described elsewhere: ``hf-hub:owner/name`` and ``local-dir:folder``, as timm writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm
import timm.models
from timm.models import _hub as timm_hub
from timm.models._pretrained import PretrainedCfg

from autotimm.runtime.errors import CheckpointError, ConfigError, one_line

CONFIGURATION = "config.json"


@dataclass(frozen=True)
class BackboneSource:
    """What the ``config.json`` of a repository or a folder says of the network whose weights lie beside it."""

    architecture: str
    """A name that timm has."""
    arguments: dict[str, Any]
    """Of ``timm.create_model``, without the number of classes."""
    pretrained_cfg: dict[str, Any]
    """timm's settings of the weights: where they are, their classes, and how their images are prepared."""
    label_names: tuple[str, ...] | None
    """The names of the weights' classes, where all of them have one of their own."""


def is_elsewhere(name: str) -> bool:
    """Whether a backbone's name says where its description is."""
    return ":" in name


def describe_source(name: str) -> BackboneSource:
    """Read the description of a backbone: from the hub, from its cache, or from a folder.

    Args:
        name: ``hf-hub:owner/name``, with ``@revision`` or without, or ``local-dir:folder``.

    Raises:
        ConfigError: neither of the two, or an architecture that this timm does not have.
        CheckpointError: there is no description, or it cannot be had or understood.
    """
    try:
        kind, place = timm.models.parse_model_name(name)
    except ValueError as error:
        raise ConfigError(f"backbone {name!r}: {one_line(error)}") from error
    if kind == "local-dir" and not (Path(place) / CONFIGURATION).is_file():
        raise CheckpointError(
            f"{name}: there is no {CONFIGURATION} in that folder; it needs timm's {CONFIGURATION} and the weights, as "
            "timm.models.save_for_hf writes them and as its repositories on the hub have them"
        )
    try:
        load: Any = timm_hub.load_model_config_from_path if kind == "local-dir" else timm.models.load_model_config_from_hf
        settings, architecture, arguments = load(place)
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # ValueError: no JSON, or not of text
        if kind == "hf-hub" and not isinstance(error, KeyError | TypeError | AttributeError):
            raise CheckpointError(offline_message(name, error)) from error
        raise CheckpointError(
            f"{name}: its {CONFIGURATION} is not timm's description of a model ({type(error).__name__}: "
            f"{one_line(error)[:200]}); only models that timm has saved can be backbones"
        ) from error
    except Exception as error:  # the hub's client has many
        raise CheckpointError(offline_message(name, error)) from error
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ConfigError(
            f"{name} is a {architecture!r}, which timm {timm.__version__} does not have; a later timm may: "
            "pip install --upgrade timm"
        )
    known = {field.name for field in fields(PretrainedCfg)}  # a later timm may have written more
    names = _label_names(settings.get("label_names"), settings.get("num_classes"))
    kept = known - {"label_names", "label_descriptions", "state_dict"}
    return BackboneSource(
        architecture=architecture,
        arguments={key: value for key, value in arguments.items() if key != "num_classes"},
        pretrained_cfg={key: value for key, value in settings.items() if key in kept},
        label_names=names,
    )
