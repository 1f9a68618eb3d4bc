"""Backbones that are described elsewhere: ``hf-hub:owner/name`` and ``local-dir:folder``, as timm writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import timm
from timm.models import _hub as timm_hub
from timm.models._pretrained import PretrainedCfg

from autotimm.models.backbone_weights import unavailable
from autotimm.runtime.errors import CheckpointError, ConfigError, one_line

CONFIGURATION = "config.json"
KINDS = {"hf-hub": "hf-hub", "hf_hub": "hf-hub", "local-dir": "local-dir"}


@dataclass(frozen=True)
class BackboneSource:
    """What the ``config.json`` of a repository or a folder says of the network whose weights lie beside it."""

    architecture: str
    """A name that timm has."""
    arguments: dict[str, Any]
    """Of ``timm.create_model``, without the number of classes."""
    pretrained_cfg: dict[str, Any]
    """timm's settings of the weights: where they are, how many classes they have, how their images are prepared."""
    label_names: tuple[str, ...] | None
    """The classes of the weights, where all have names and no two the same."""


def describe_source(name: str) -> BackboneSource:
    """Read the description of a backbone: from the hub (or its cache), or from a folder.

    Args:
        name: ``hf-hub:owner/name``, also ``hf-hub:owner/name@revision``, or ``local-dir:folder``.

    Raises:
        ConfigError: neither of the two, or an architecture that this timm does not have.
        CheckpointError: there is no description, or it cannot be had or understood.
    """
    prefix, _, place = name.partition(":")
    kind = KINDS.get(prefix.lower())
    if kind is None or not place:
        raise ConfigError(f"backbone {name!r} is neither a name of timm's nor hf-hub:OWNER/NAME nor local-dir:FOLDER")
    if kind == "local-dir" and not (Path(place) / CONFIGURATION).is_file():
        raise CheckpointError(
            f"{name}: there is no {CONFIGURATION} in that folder; it must hold {CONFIGURATION} and the weights, as "
            "timm.models.save_for_hf and a download from the hub leave them"
        )
    load: Any = timm_hub.load_model_config_from_path if kind == "local-dir" else timm_hub.load_model_config_from_hf
    try:
        settings, architecture, arguments = load(place)
        found = _understood(settings, architecture, arguments)
    except (AttributeError, JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{name}: its {CONFIGURATION} is not a description of a timm model ({type(error).__name__}: "
            f"{one_line(error)[:200]}); backbones can be made of models that timm has saved"
        ) from error
    except Exception as error:  # the hub's client has many
        raise CheckpointError(unavailable(name, error)) from error
    if not timm.is_model(found.architecture):
        raise ConfigError(
            f"{name} is a {found.architecture!r}, which timm {timm.__version__} does not have; a later one may: "
            "pip install --upgrade timm"
        )
    return found


def _understood(settings: dict[str, Any], architecture: str, arguments: dict[str, Any]) -> BackboneSource:
    known = {field.name for field in fields(PretrainedCfg)}  # a later timm may have written more
    names = {"label_names", "label_descriptions"}  # thousands, perhaps
    return BackboneSource(
        architecture=str(architecture),
        arguments={key: value for key, value in arguments.items() if key != "num_classes"},
        pretrained_cfg={key: value for key, value in settings.items() if key in known - names},
        label_names=_label_names(settings.get("label_names"), int(settings.get("num_classes", 0))),
    )


def _label_names(given: Any, num_classes: int) -> tuple[str, ...] | None:
    """The names in the order of the classes; timm's files hold a list, or a dictionary by index."""
    if isinstance(given, Mapping):
        by_index = {str(index): name for index, name in given.items()}
        given = [by_index.get(str(index)) for index in range(len(by_index))]
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        return None
    return tuple(given) if len(given) == len(set(given)) == num_classes else None
