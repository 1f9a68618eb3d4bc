"""Configuration files to start from, one for each task; ``autotimm train --init TASK`` prints one."""

from __future__ import annotations

from importlib.resources import files

from autotimm.runtime.errors import ConfigError

SUFFIX = ".yaml"


def list_templates() -> list[str]:
    """What :func:`read_template` knows."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def read_template(name: str) -> str:
    """The text of a configuration file, which trains as it stands once its data is there.

    Raises:
        ConfigError: no such template; near matches are named.
    """
    if name not in list_templates():
        raise ConfigError.unknown("configuration to start from,", name, list_templates())
    return files(__name__).joinpath(name + SUFFIX).read_text(encoding="utf-8")
