"""What the server tells about its models, in the words of the Open Inference Protocol and of Triton's extensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotimm.runtime.manifest import TensorSpec
from autotimm.serving.hosting import HostedModel, HostedModels
from autotimm.serving.statistics import Duration
from autotimm.serving.tensors import DATATYPES
from autotimm.version import __version__

EXTENSIONS = ("classification", "model_configuration", "binary_tensor_data", "parameters", "statistics")
_PLATFORMS = {
    "onnx": ("onnxruntime_onnx", "onnxruntime"),
    "torchscript": ("pytorch_libtorch", "pytorch"),
    "trt": ("tensorrt_plan", "tensorrt"),
}
"""Of a format of the manifest: Triton's platform and backend."""


def server_metadata() -> dict[str, Any]:
    """The answer to ``GET /v2``."""
    return {"name": "autotimm", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: HostedModel, versions: Sequence[str]) -> dict[str, Any]:
    """The answer to ``GET /v2/models/NAME``; free dimensions are -1."""
    manifest = model.manifest
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": _platform(manifest.format)[0],
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
    }


def model_config(model: HostedModel, max_batch: int, workers: int) -> dict[str, Any]:
    """The answer to ``GET /v2/models/NAME/config``.

    Where the batch is free, ``max_batch_size`` is more than 0 and the dimensions leave the batch out, as Triton has it.
    """
    manifest = model.manifest
    free = model.batch_limit is None
    platform, backend = _platform(manifest.format)
    config: dict[str, Any] = {
        "name": model.name,
        "platform": platform,
        "backend": backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch if free else 0,
        "input": [_config_tensor(spec, without_batch=free) for spec in manifest.inputs],
        "output": [_config_tensor(spec, without_batch=free) for spec in manifest.outputs],
        "instance_group": [{"name": model.name, "kind": "KIND_AUTO", "count": workers}],
        "default_model_filename": model.source.path.name,
        "parameters": {
            "task": {"string_value": manifest.task},
            "precision": {"string_value": manifest.precision},
            "verification": {"string_value": manifest.verification.status},
        },
    }
    if free:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    return config


def model_statistics(model: HostedModel) -> dict[str, Any]:
    """One entry of the answer to ``GET /v2/models/stats``."""
    known = model.statistics
    stages = {name: _duration(duration) for name, duration in known.stages.items()}
    batches = [
        {"batch_size": size, **{name: _duration(duration) for name, duration in runs.items()}}
        for size, runs in sorted(known.batches.items())
    ]
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": known.last_ms,
        "inference_count": known.images,
        "execution_count": known.runs,
        "inference_stats": {
            "success": _duration(known.success),
            "fail": _duration(known.fail),
            "queue": _duration(known.queue),
            **stages,
            "cache_hit": _duration(Duration()),
            "cache_miss": _duration(Duration()),
        },
        "batch_stats": batches,
    }


def repository_index(models: HostedModels) -> list[dict[str, str]]:
    """The answer to ``POST /v2/repository/index``."""
    return [{"name": model.name, "version": model.version, "state": "READY", "reason": ""} for model in models]


def _platform(form: str) -> tuple[str, str]:
    return _PLATFORMS.get(form, (form, form))


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else -1 for side in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _config_tensor(spec: TensorSpec, *, without_batch: bool) -> dict[str, Any]:
    shape = [side if isinstance(side, int) else -1 for side in spec.shape]
    return {
        "name": spec.name,
        "data_type": f"TYPE_{DATATYPES[spec.dtype]}",
        "dims": shape[1:] if without_batch else shape,
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}
