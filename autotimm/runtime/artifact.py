"""Opening an artifact: from a file to its manifest, or to a predictor."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.manifest import Manifest
from autotimm.runtime.predictor import Predictor

_BACKENDS = {".onnx": "onnxruntime", ".pt": "torchscript", ".engine": "tensorrt", ".plan": "tensorrt"}
"""The module in :mod:`autotimm.runtime.backends` that runs the artifacts of a suffix. Each has ``open_backend(path, *,
provider, threads)`` and ``read_manifest_text(path)``."""
_PROVIDERS = {".engine": "cuda", ".plan": "cuda"}
"""What an artifact of a suffix runs on where nobody says; the others run on the CPU."""
SUFFIXES = tuple(_BACKENDS)
"""File name endings of the artifacts that this version runs."""


def load(path: str | os.PathLike[str], *, provider: str | None = None, threads: int | None = None) -> Predictor:
    """Load an artifact for prediction.

    Args:
        path: the artifact; its suffix says which engine runs it.
        provider: the device or library to run on: cpu or cuda; for ONNX Runtime also tensorrt, coreml, openvino or
            directml. ``None`` is the CPU for all but engines, which run on CUDA only.
        threads: threads of the engine; ``None`` leaves the choice to it.

    Raises:
        ArtifactError: the file is not an artifact of AutoTimm that this version can run.
        BackendUnavailableError: the engine or the provider is not there.
        ConfigError: an unknown provider, or fewer than one thread.
    """
    artifact = _checked(path)
    provider = provider or _PROVIDERS.get(artifact.suffix.lower(), "cpu")
    backend: Any = _engine_of(artifact).open_backend(artifact, provider=provider, threads=threads)
    try:
        return Predictor(backend, Manifest.of_artifact(backend.manifest_text, artifact))
    except ArtifactError as error:
        backend.close()
        if str(error).startswith(str(artifact)):
            raise
        raise ArtifactError(f"{artifact}: {error}") from error


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What an artifact says about itself, without preparing it to run.

    Raises:
        ArtifactError: the file is not an artifact of AutoTimm, or its manifest is damaged or too new.
        BackendUnavailableError: the library that reads the format is not installed.
    """
    artifact = _checked(path)
    return Manifest.of_artifact(_engine_of(artifact).read_manifest_text(artifact), artifact)


def is_artifact(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of an artifact that this version runs."""
    return Path(path).suffix.lower() in SUFFIXES


def _checked(path: str | os.PathLike[str]) -> Path:
    artifact = Path(path)
    if not is_artifact(artifact):
        raise ArtifactError(
            f"{artifact}: not an artifact this version can run; their names end in {', '.join(SUFFIXES)}"
        )
    return artifact


def _engine_of(artifact: Path) -> ModuleType:
    return importlib.import_module(f"autotimm.runtime.backends.{_BACKENDS[artifact.suffix.lower()]}")
