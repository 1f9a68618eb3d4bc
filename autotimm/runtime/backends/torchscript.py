"""TorchScript artifacts on torch, or LibTorch's Python side: the one module of the runtime that imports torch.

It does so when an artifact is opened, so that the rest of the runtime, and reading a manifest, work without it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ArtifactError, BackendUnavailableError, ConfigError, one_line
from autotimm.runtime.manifest import Manifest, TensorSpec
from autotimm.runtime.torchscript_archive import read_extra_file

PROVIDERS = ("cpu", "cuda")
"""Provider names accepted here: torch's own devices."""


class TorchScriptBackend:
    """One TorchScript module, behind :class:`autotimm.runtime.backends.Backend`.

    It can be run in several threads at a time. The names, types and shapes of its outputs are those of the manifest,
    and every run is held to them.

    Args:
        path: the ``.pt`` file.
        provider: a name of :data:`PROVIDERS`.
        threads: threads that share one operator; ``None`` leaves the choice to torch. They are set for the duration of
            a run only, in the thread that runs.

    Raises:
        ConfigError: an unknown provider, or fewer than one thread.
        BackendUnavailableError: torch or the device is not there.
        ArtifactError: the file is missing, empty, of no AutoTimm export, or not one that this torch can run.
    """

    def __init__(self, path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}, but must be at least 1 (or None for torch's own choice)")
        if provider not in PROVIDERS:
            raise ConfigError.unknown("provider of TorchScript artifacts", provider, PROVIDERS)
        self._path = Path(path)
        self.manifest_text = read_manifest_text(path)
        manifest = Manifest.of_artifact(self.manifest_text, self._path)
        self.inputs, self.outputs = manifest.inputs, manifest.outputs
        self._torch = _import_torch()
        if provider == "cuda" and not self._torch.cuda.is_available():
            raise BackendUnavailableError(
                f"torch {self._torch.__version__} finds no CUDA device: check the driver, or install a torch for CUDA"
            )
        self._device, self._threads = provider, threads
        self._module: Any = _frozen(load_module(self._path, provider))
        shared = "default threads" if threads is None else f"{threads} thread{'s' * (threads > 1)}"
        self.name = f"torchscript on torch {self._torch.__version__}, {provider}, {shared}"

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run on ``[N, H, W, 3]`` RGB uint8 and return every output by name.

        Raises:
            ArtifactError: torch failed, the outputs are not those of the manifest, or the backend is closed.
        """
        module = self._module
        if module is None:
            raise ArtifactError(f"{self._path}: this backend is closed; load the artifact again")
        pixels = self._torch.from_numpy(images if images.flags.writeable else images.copy())
        try:
            with self._settings():
                outputs = module(pixels.to(self._device))
                values = [value.cpu().numpy() for value in outputs]
        except Exception as error:  # TorchScript's exceptions share no base class but this one
            raise ArtifactError(f"{self._path}: torch failed: {_shortened(error)}") from error
        self._check(values, images.shape)
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def close(self) -> None:
        """Release the module; may be called twice."""
        self._module = None

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Of this thread, for one run."""
        torch = self._torch
        before = torch.get_num_threads()
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            with torch.inference_mode():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)

    def _check(self, values: list[NDArray[np.generic]], taken: tuple[int, ...]) -> None:
        free = {name: side for name, side in zip(self.inputs[0].shape, taken, strict=False) if isinstance(name, str)}
        found = [TensorSpec(spec.name, str(v.dtype), v.shape) for spec, v in zip(self.outputs, values, strict=False)]
        described = [TensorSpec(spec.name, spec.dtype, _bound(spec.shape, free)) for spec in self.outputs]
        if found != described or len(values) != len(described):
            raise ArtifactError(
                f"{self._path}: {len(values)} outputs came ({', '.join(map(str, found))}), but its manifest says "
                f"{', '.join(map(str, described))}; it was changed after its export: export the model again"
            )


def open_backend(path: Path, *, provider: str, threads: int | None) -> TorchScriptBackend:
    """What :func:`autotimm.runtime.load` calls."""
    return TorchScriptBackend(path, provider=provider, threads=threads)


def read_manifest_text(path: str | os.PathLike[str]) -> str | None:
    """The manifest of a TorchScript file as JSON text, ``None`` where it has none; torch is not needed.

    Raises:
        ArtifactError: the file is missing, empty or no TorchScript.
    """
    return read_extra_file(path)


def load_module(path: Path, device: str = "cpu") -> Any:
    """The module in a TorchScript file, a ``torch.jit.ScriptModule`` in evaluation mode, with all its methods.

    Raises:
        ArtifactError: this torch cannot load it.
    """
    torch = _import_torch()
    try:
        with _undeprecated():
            return torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # TorchScript's exceptions share no base class but this one
        raise ArtifactError(f"{path}: torch {torch.__version__} cannot load it: {_shortened(error)}") from error


def _frozen(module: Any) -> Any:
    """The module with its weights as constants, so that batch norms go into their convolutions."""
    with _undeprecated():
        return _import_torch().jit.freeze(module)


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise BackendUnavailableError.missing_package(
            "torch", "torchscript", "running a TorchScript artifact"
        ) from error
    return torch


@contextmanager
def _undeprecated() -> Iterator[None]:
    """Recent releases of torch advise against TorchScript: advice for who chooses a format, not for who runs a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _bound(shape: tuple[int | str, ...], free: Mapping[str, int]) -> tuple[int | str, ...]:
    """A shape of the manifest with the sizes that its free dimensions had in an input."""
    return tuple(free.get(side, side) if isinstance(side, str) else side for side in shape)


def _shortened(error: Exception) -> str:
    """One line without TorchScript's stack of the code in the file, which ends with the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "Error: " in line or line.startswith("Expected")]
    text = " ".join((causes or lines[:3] or [one_line(error)])[-1 if causes else 0 :])
    return text if len(text) <= 240 else text[:237] + "..."
