"""Train a vision model, export it once, run the same artifact everywhere, and prove that it is the same.

Importing this package imports nothing heavy: every public name is loaded when it is first used, and
``autotimm.runtime`` never needs torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autotimm.version import __version__

if TYPE_CHECKING:
    from autotimm import benchmarks, evaluation, export, runtime, serving
    from autotimm.data import (
        DetectionDataModule,
        ImageDataModule,
        InstanceSegmentationDataModule,
        MultiLabelImageDataModule,
        SegmentationDataModule,
        YOLOXAugmentation,
    )
    from autotimm.evaluation import evaluate
    from autotimm.export import export_to_onnx, export_to_tensorrt, export_to_torchscript, verify
    from autotimm.metrics import MetricConfig
    from autotimm.models import (
        BackboneConfig,
        ImageClassifier,
        InstanceSegmentor,
        ObjectDetector,
        SemanticSegmentor,
        YOLOXDetector,
        count_parameters,
        list_backbones,
        list_yolox_models,
        load_checkpoint,
        seed_everything,
    )
    from autotimm.optim import list_optimizers, list_schedulers
    from autotimm.training import AutoTrainer, LoggerConfig, TunerConfig

_HOMES = {
    "AutoTrainer": "autotimm.training",
    "BackboneConfig": "autotimm.models",
    "DetectionDataModule": "autotimm.data",
    "ImageClassifier": "autotimm.models",
    "ImageDataModule": "autotimm.data",
    "InstanceSegmentationDataModule": "autotimm.data",
    "InstanceSegmentor": "autotimm.models",
    "LoggerConfig": "autotimm.training",
    "MetricConfig": "autotimm.metrics",
    "MultiLabelImageDataModule": "autotimm.data",
    "ObjectDetector": "autotimm.models",
    "SegmentationDataModule": "autotimm.data",
    "SemanticSegmentor": "autotimm.models",
    "TunerConfig": "autotimm.training",
    "YOLOXAugmentation": "autotimm.data",
    "YOLOXDetector": "autotimm.models",
    "count_parameters": "autotimm.models",
    "evaluate": "autotimm.evaluation",
    "export_to_onnx": "autotimm.export",
    "export_to_tensorrt": "autotimm.export",
    "export_to_torchscript": "autotimm.export",
    "list_backbones": "autotimm.models",
    "list_optimizers": "autotimm.optim",
    "list_schedulers": "autotimm.optim",
    "list_yolox_models": "autotimm.models",
    "load_checkpoint": "autotimm.models",
    "seed_everything": "autotimm.models",
    "verify": "autotimm.export",
}
_SUBPACKAGES = ("benchmarks", "evaluation", "export", "runtime", "serving")

__all__ = [
    "AutoTrainer",
    "BackboneConfig",
    "DetectionDataModule",
    "ImageClassifier",
    "ImageDataModule",
    "InstanceSegmentationDataModule",
    "InstanceSegmentor",
    "LoggerConfig",
    "MetricConfig",
    "MultiLabelImageDataModule",
    "ObjectDetector",
    "SegmentationDataModule",
    "SemanticSegmentor",
    "TunerConfig",
    "YOLOXAugmentation",
    "YOLOXDetector",
    "__version__",
    "benchmarks",
    "count_parameters",
    "evaluate",
    "evaluation",
    "export",
    "export_to_onnx",
    "export_to_tensorrt",
    "export_to_torchscript",
    "list_backbones",
    "list_optimizers",
    "list_schedulers",
    "list_yolox_models",
    "load_checkpoint",
    "runtime",
    "seed_everything",
    "serving",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES and name not in _SUBPACKAGES:
        raise AttributeError(f"module 'autotimm' has no attribute {name!r}")
    try:
        if name in _SUBPACKAGES:
            return importlib.import_module(f"autotimm.{name}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from autotimm.runtime.errors import BackendUnavailableError

        raise BackendUnavailableError.from_import_error(error, f"autotimm.{name}") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
