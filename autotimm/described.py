"""What a user names: classes by a dotted path, with arguments, in YAML or in Python; metrics to go by."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from autotimm.runtime.errors import ConfigError, one_line


def check_options(kind: str, options: Mapping[str, Any], signature: inspect.Signature, skip: int) -> None:
    """Refuse the first option that is no parameter of a signature, whose first ``skip`` parameters are not options.

    Raises:
        ConfigError: naming the near matches, or the options there are.
    """
    parameters = list(signature.parameters.values())[skip:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise ConfigError.unknown(kind, option, known)


def class_and_params(kind: str, description: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take ``{"class": "dotted.path", "params": {...}}`` apart.

    Raises:
        ConfigError: other keys, or no class.
    """
    unknown = set(description) - {"class", "params"}
    if "class" not in description or unknown:
        raise ConfigError(
            f"a {kind} is a name or {{'class': 'dotted.path', 'params': {{...}}}}, but {dict(description)!r} was given"
        )
    return str(description["class"]), dict(description.get("params") or {})


def import_class(kind: str, path: str) -> Callable[..., Any]:
    """Import ``package.module.Class``, or a function of a module.

    Raises:
        ConfigError: no such module, or nothing callable of that name in it; near matches are named.
    """
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ConfigError(f"{kind} class {path!r} must be written package.module.ClassName")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{kind} class {path!r} cannot be imported ({one_line(error)}); its folder must be on PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not callable(found):
        offered = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise ConfigError.unknown(f"{kind} class in {module_name},", class_name, offered)
    return found  # type: ignore[no-any-return]


def mode_of(metric: str) -> str:
    """Whether a metric should become small (``min``) or large (``max``), by its name."""
    return "min" if any(word in metric.lower() for word in ("loss", "error", "distance")) else "max"
