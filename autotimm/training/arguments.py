"""What arguments a class takes, and whether a value from a YAML file is one of them."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin

import pytorch_lightning as pl

from autotimm.runtime.errors import ConfigError


class Parameter(NamedTuple):
    """One argument of a class."""

    type: Any
    """Its annotation, ``Any`` where there is none."""
    required: bool


_IN_YAML: dict[Any, tuple[type, str]] = {
    type(None): (type(None), "null"),
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
    Path: (str, "a path"),
    list: (list, "a list"),
    tuple: (list, "a list"),
    Sequence: (list, "a list"),
    dict: (dict, "a mapping"),
    Mapping: (dict, "a mapping"),
}
"""For each annotated type that YAML can write: how it arrives, and how a person calls it."""


def parameters_of(cls: Callable[..., Any]) -> dict[str, Parameter]:
    """The arguments of a class by name; a trainer's include those it hands on to ``pl.Trainer``."""
    signature = inspect.signature(cls)
    hints = _type_hints(inspect.getattr_static(cls, "__init__"))
    parameters = signature.parameters.values()
    found = {
        parameter.name: Parameter(hints.get(parameter.name, Any), parameter.default is parameter.empty)
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    if len(found) < len(parameters):
        found = {**parameters_of(pl.Trainer), **found}
    return found


def _type_hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):  # names that its module only imports for type checkers: the class checks by itself
        return {}


def checked_argument(value: Any, annotation: Any, where: str) -> Any:
    """A value as its argument wants it: a list as the tuple, a whole number as the float.

    Args:
        value: from a YAML file.
        annotation: the type of the argument. One that YAML has no literal for is not looked at.
        where: of the value, for the message.

    Raises:
        ConfigError: the annotation tells that the value is of a wrong type.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    origins = [get_origin(option) or option for option in options]
    if any(origin is Any or origin is typing.Literal for origin in origins):
        return value
    writable = [_IN_YAML[origin] for origin in origins if origin in _IN_YAML]
    arrives_as = [kind for kind, _ in writable]
    if isinstance(value, str) and Path in origins:
        value = os.path.expanduser(value)
    if type(value) in arrives_as:
        return tuple(value) if isinstance(value, list) and tuple in origins else value
    if type(value) is int and float in arrives_as:
        return float(value)
    names = list(dict.fromkeys(name for _, name in writable))
    raise ConfigError(f"{where} is {value!r}, but must be {' or '.join(names) or 'left out: YAML cannot express it'}")
