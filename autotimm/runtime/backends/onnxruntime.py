"""ONNX artifacts on ONNX Runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ArtifactError, BackendUnavailableError, ConfigError, one_line
from autotimm.runtime.files import check_file
from autotimm.runtime.manifest import METADATA_KEY, TensorSpec
from autotimm.runtime.onnx_metadata import read_metadata

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "'autotimm-deploy[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "'autotimm-deploy[gpu]'"),
    "tensorrt": ("TensorrtExecutionProvider", "'autotimm-deploy[gpu]'"),
    "coreml": ("CoreMLExecutionProvider", "'autotimm-deploy[cpu]' (on macOS)"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml (on Windows)"),
}
"""Provider names accepted here: what ONNX Runtime calls each, and what to pip install for it."""

_ERRORS_ONLY = 3
"""ONNX Runtime's log severity; its warnings about a sound graph are for its developers."""

_NUMPY_NAMES = {"float": "float32", "double": "float64"}


class OnnxRuntimeBackend:
    """One ONNX Runtime session, behind :class:`autotimm.runtime.backends.Backend`.

    Args:
        path: the ``.onnx`` file.
        provider: a key of :data:`PROVIDERS`. It is used, or it is an error: ONNX Runtime's own fall back to the CPU is
            not accepted (single operators that a provider lacks still run on the CPU).
        threads: threads that share one operator; ``None`` leaves the choice to ONNX Runtime (the physical cores).

    Raises:
        ConfigError: an unknown provider, or fewer than one thread.
        BackendUnavailableError: ONNX Runtime or the provider is not there.
        ArtifactError: the file is missing, empty or not an ONNX model that this ONNX Runtime can run.
    """

    def __init__(self, path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}, but must be at least 1 (or None for ONNX Runtime's own choice)")
        runtime = _import_onnxruntime()
        execution_provider = _execution_provider(runtime, provider)
        options = runtime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        session = _open_session(runtime, Path(path), options, execution_provider)
        if execution_provider not in session.get_providers():
            raise BackendUnavailableError(
                f"ONNX Runtime could not start its provider {provider!r} ({execution_provider}) and went back to "
                f"{', '.join(session.get_providers())}; check the driver and libraries that it needs"
            )
        self._session: Any = session
        self._path = Path(path)
        shared = "default threads" if threads is None else f"{threads} thread{'s' * (threads > 1)}"
        self.name = f"onnxruntime {runtime.__version__}, {provider}, {shared}"
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.manifest_text: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self._output_names = [spec.name for spec in self.outputs]
        self._input_name = self.inputs[0].name if self.inputs else ""

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run on RGB uint8 ``[N, H, W, 3]``, or one image ``[H, W, 3]``, and return every output by name.

        Raises:
            ArtifactError: ONNX Runtime failed, or the backend is closed.
        """
        if self._session is None:
            raise ArtifactError(f"{self._path}: this backend is closed; load the artifact again")
        try:
            values = self._session.run(self._output_names, {self._input_name: images})
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise ArtifactError(f"{self._path}: ONNX Runtime failed: {_shortened(error)}") from error
        return dict(zip(self._output_names, values, strict=True))

    def close(self) -> None:
        """Release the session; may be called twice."""
        self._session = None


def open_backend(path: Path, *, provider: str, threads: int | None) -> OnnxRuntimeBackend:
    """What :func:`autotimm.runtime.load` calls."""
    return OnnxRuntimeBackend(path, provider=provider, threads=threads)


def read_manifest_text(path: str | os.PathLike[str]) -> str | None:
    """The manifest of an ONNX file as JSON text, ``None`` where it has none; no engine is needed.

    Raises:
        ArtifactError: the file is missing, empty or not an ONNX model.
    """
    return read_metadata(path).get(METADATA_KEY)


def offered_providers(runtime: Any) -> list[str]:
    """The names from :data:`PROVIDERS` that this build of ONNX Runtime has; their drivers may still be absent."""
    available = runtime.get_available_providers()
    return [name for name, (execution_provider, _) in PROVIDERS.items() if execution_provider in available]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise BackendUnavailableError.missing_package("onnxruntime", "cpu", "running an ONNX artifact") from error
    return onnxruntime


def _execution_provider(runtime: Any, provider: str) -> str:
    if provider not in PROVIDERS:
        raise ConfigError.unknown("provider", provider, PROVIDERS)
    wanted, packages = PROVIDERS[provider]
    offered = offered_providers(runtime)
    if provider not in offered:
        other = "" if "[cpu]" in packages else "; pip uninstall onnxruntime first, since both are one Python package"
        raise BackendUnavailableError(
            f"this ONNX Runtime has no provider {provider!r}, only {', '.join(offered)}: pip install {packages}{other}"
        )
    return wanted


def _open_session(runtime: Any, path: Path, options: Any, provider: str) -> Any:
    check_file(path)
    try:
        return runtime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_shortened(error)}") from error


def _spec(node: Any) -> TensorSpec:
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple("?" if side is None else side for side in node.shape)
    return TensorSpec(node.name, _NUMPY_NAMES.get(dtype, dtype), shape)


def _shortened(error: Exception) -> str:
    """One line without ONNX Runtime's prefix, source positions and lists of everything it supports."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error))
    text = re.sub(r"\S+\.(?:cc|h):\d+ [^ ]+(?: [^ ]+\))? ", "", text)
    return text if len(text) <= 240 else text[:237] + "..."
