"""The models that a server holds: opened, warmed up, and replaced by a better file or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime import Predictor
from autotimm.runtime.errors import ArtifactError, ConfigError, one_line
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.pictures import generate
from autotimm.serving.sources import ModelSource
from autotimm.serving.statistics import ModelStatistics

Opener = Callable[[Path], Predictor]
Signature = tuple[int, int, int]
"""Inode, size and time of change of a file."""

_GOLDEN_SIZE = (120, 160)
_TOLERANCE = 1e-3
"""Relative and absolute; outputs of one network written twice differ by less."""


@dataclass(eq=False)
class HostedModel:
    """One version of a model, ready to run. ``predictor`` is exchanged as a whole, between two runs."""

    source: ModelSource
    predictor: Predictor
    golden: dict[str, NDArray[np.generic]]
    """Its outputs on a picture that is always the same."""
    signature: Signature
    opener: Opener
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, source: ModelSource, opener: Opener) -> HostedModel:
        """Load a file and run it once, so that the first request does not pay for that.

        Raises:
            AutoTimmError: as the opener has it, or the engine fails on a picture.
        """
        signature = signature_of(source.path)
        predictor = opener(source.path)
        return cls(source, predictor, golden_outputs(predictor), signature, opener)

    @property
    def name(self) -> str:
        """Under which it is asked for."""
        return self.source.name

    @property
    def version(self) -> str:
        """A number, as text."""
        return self.source.version

    @property
    def manifest(self) -> Manifest:
        """Of the file that is running now."""
        return self.predictor.manifest

    @property
    def batch_limit(self) -> int | None:
        """Images of a run at most: a number where the artifact fixes it, else ``None``."""
        return self.predictor.fixed_batch

    @property
    def takes_image(self) -> bool:
        """Whether a run takes one image of any size."""
        return self.predictor.takes_image

    def changed(self) -> bool:
        """Whether the file is another one than the one that was last tried; not while it is away."""
        try:
            return signature_of(self.source.path) != self.signature
        except ArtifactError:
            return False

    def reload(self) -> None:
        """Load the file again and go over to it, or stay with what is running.

        Raises:
            AutoTimmError: the new file cannot be loaded, is of another model, or is not proven to answer well.
        """
        with self._lock:
            self.signature = signature_of(self.source.path)
            try:
                predictor = self.opener(self.source.path)
                _check_same_model(self.predictor.manifest, predictor.manifest)
                golden = golden_outputs(predictor)
                _check_golden(self.golden, golden, predictor.manifest)
            except Exception as error:  # whatever it is, the model that runs is not touched by it
                self.statistics.reloaded(well=False)
                raise ArtifactError(
                    f"{self.source.path}: not taken, the model that was loaded before stays: {one_line(error)}"
                ) from error
            self.predictor, self.golden = predictor, golden  # runs that have begun keep the old one alive
            self.statistics.reloaded(well=True)


class HostedModels:
    """Every model of a server by name and version.

    Args:
        models: at least one; no two of one name and version.
    """

    def __init__(self, models: Iterable[HostedModel]) -> None:
        self._versions: dict[str, dict[str, HostedModel]] = {}
        for model in models:
            versions = self._versions.setdefault(model.name, {})
            if model.version in versions:
                raise ConfigError(f"model {model.name!r} has two files for version {model.version}")
            versions[model.version] = model

    def __iter__(self) -> Iterator[HostedModel]:
        return (model for versions in self._versions.values() for model in versions.values())

    @property
    def names(self) -> list[str]:
        """In the order they were given."""
        return list(self._versions)

    def versions(self, name: str) -> list[str]:
        """Of one model, the oldest first."""
        return sorted(self._versions[name], key=int)

    def find(self, name: str, version: str | None = None) -> HostedModel | None:
        """The model, of the highest version where none is named; ``None`` where there is none."""
        versions = self._versions.get(name, {})
        if version:
            return versions.get(version)
        return versions[max(versions, key=int)] if versions else None


def signature_of(path: Path) -> Signature:
    """What tells one state of a file from another.

    Raises:
        ArtifactError: it is not there.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    return found.st_ino, found.st_size, found.st_mtime_ns


def golden_outputs(predictor: Predictor) -> dict[str, NDArray[np.generic]]:
    """The outputs for one generated picture.

    Raises:
        AutoTimmError: the engine fails, or an output holds numbers that are not finite.
    """
    pixels, placement = predictor.prepare(generate(*_GOLDEN_SIZE, seed=0))
    outputs = predictor.run(predictor.as_input([pixels]))
    predictor.finish(outputs, [placement])
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values.astype(np.float64)).all():
            raise ArtifactError(f"output {name} is not finite on a generated picture")
    return outputs


def _check_same_model(running: Manifest, new: Manifest) -> None:
    for what in ("task", "class_names", "input_mode", "inputs", "outputs"):
        before, after = getattr(running, what), getattr(new, what)
        if before != after:
            raise ArtifactError(f"its {what} are others ({_short(before)} before, {_short(after)} now)")


def _short(value: object) -> str:
    text = ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_golden(
    before: dict[str, NDArray[np.generic]], now: dict[str, NDArray[np.generic]], manifest: Manifest
) -> None:
    """A file whose export was verified may answer otherwise; one without that proof must answer as the old one."""
    verification = manifest.verification
    if verification.status == "passed":
        return
    if verification.status == "failed":
        raise ArtifactError(f"its verification failed ({verification.reason})")
    for name, values in before.items():
        if values.shape != now[name].shape or not np.allclose(values, now[name], rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ArtifactError(
                f"its verification was not run, and its output {name} is not that of the running model on the same "
                "picture; export it with verification"
            )
