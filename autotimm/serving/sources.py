"""What a user may write for a model: a file, NAME=FILE, NAME:VERSION=FILE, or a folder laid out as Triton has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotimm.runtime import is_artifact
from autotimm.runtime.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelSource:
    """A file, and the name and version it is served under."""

    name: str
    version: str
    path: Path


def read_sources(arguments: Sequence[str]) -> list[ModelSource]:
    """What was written on the command line, as files.

    Raises:
        ConfigError: a name or version that cannot stand in a URL, two files for one version, or a folder without
            models.
    """
    sources = [source for argument in arguments for source in _read(argument)]
    seen: dict[tuple[str, str], Path] = {}
    for source in sources:
        key = (source.name, source.version)
        if key in seen:
            raise ConfigError(
                f"{seen[key]} and {source.path} would both be model {source.name!r}, version {source.version}; name "
                f"them: {source.name}:1={seen[key]} {source.name}:2={source.path}"
            )
        seen[key] = source.path
    return sources


def _read(argument: str) -> list[ModelSource]:
    label, equals, file = argument.partition("=")
    if not equals or Path(argument).exists():
        label, file = "", argument
    path = Path(file)
    if path.is_dir():
        if label:
            raise ConfigError(f"{argument}: {path} is a folder; only a file can be given a name")
        return _repository(path)
    name, _, version = label.partition(":")
    name = name or _as_name(path.stem)
    version = version or "1"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{argument}: the name {name!r} cannot stand in a URL; use letters, digits, '-', '_' and '.'")
    if not _is_version(version):
        raise ConfigError(f"{argument}: the version {version!r} is not a whole number from 1 on")
    return [ModelSource(name, version, path)]


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0 and not text.startswith("0")


def _as_name(stem: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"


def _repository(folder: Path) -> list[ModelSource]:
    """Every ``NAME/VERSION/FILE`` below a folder, as in a model repository of Triton."""
    found = [
        ModelSource(path.parent.parent.name, path.parent.name, path)
        for path in sorted(folder.glob("*/*/*"))
        if is_artifact(path) and _is_version(path.parent.name) and _NAME.fullmatch(path.parent.parent.name)
    ]
    if not found:
        raise ConfigError(f"{folder}: holds no NAME/VERSION/model file; give files, or a model repository as of Triton")
    return found
