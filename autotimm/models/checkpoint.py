"""Restoring a model from a file alone: no class, backbone or class list to be given again, and no network access."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotimm.models.classifier import ImageClassifier
from autotimm.models.instance_segmentor import InstanceSegmentor
from autotimm.models.object_detector import ObjectDetector
from autotimm.models.record import CHECKPOINT_KEY, CHECKPOINT_SCHEMA, constructor_arguments
from autotimm.models.semantic.segmentor import SemanticSegmentor
from autotimm.models.task import TaskModel
from autotimm.models.torch_files import read_torch_file
from autotimm.models.yolox.detector import YOLOXDetector
from autotimm.runtime.artifact import is_artifact
from autotimm.runtime.errors import AutoTimmError, CheckpointError
from autotimm.runtime.torchscript_archive import is_torchscript

MODEL_CLASSES: dict[str, type[TaskModel]] = {
    cls.__name__: cls for cls in (ImageClassifier, InstanceSegmentor, ObjectDetector, SemanticSegmentor, YOLOXDetector)
}
"""The classes that a checkpoint may name."""


def load_checkpoint(path: str | Path) -> TaskModel:
    """Restore a model, in evaluation mode on the CPU.

    Args:
        path: an AutoTimm ``.ckpt``, or an official YOLOX ``.pth``.

    Raises:
        CheckpointError: corrupt, foreign, of a newer version, or with weights that do not fit.
    """
    path = Path(path)
    if is_artifact(path) and (path.suffix.lower() != ".pt" or is_torchscript(path)):
        raise CheckpointError(f"{path}: is an exported artifact; this needs the checkpoint that it was made from")
    checkpoint = read_checkpoint(path)
    if CHECKPOINT_KEY not in checkpoint:
        if path.suffix != ".pth" and "pytorch-lightning_version" in checkpoint:
            raise CheckpointError(
                f"{path}: a Lightning checkpoint that does not say which AutoTimm model it is; "
                "checkpoints are written by AutoTimm's models (model.save, or training with them)"
            )
        return YOLOXDetector.from_official(path)
    try:
        model = _build(checkpoint[CHECKPOINT_KEY], path)
    except CheckpointError:
        raise
    except Exception as error:  # a description may be damaged, or of a later version, in any way
        raise CheckpointError(f"{path}: the model it describes cannot be built: {_one_line(error)}") from error
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path}: the weights do not fit the model it describes: {_one_line(error)}") from error
    model.remember_file(path)
    return model.eval()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary that a checkpoint is.

    Raises:
        CheckpointError: missing, damaged, or something else.
    """
    checkpoint = read_torch_file(path)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def _build(record: Mapping[str, Any], path: Path) -> TaskModel:
    """The untrained model that a checkpoint describes."""
    schema = str(record.get("schema"))
    if schema != CHECKPOINT_SCHEMA:
        raise CheckpointError(
            f"{path}: is {schema}, but this AutoTimm reads {CHECKPOINT_SCHEMA}; "
            "load it with the version that wrote it, or upgrade: pip install --upgrade autotimm-deploy"
        )
    if record["class"] not in MODEL_CLASSES:
        known = ", ".join(MODEL_CLASSES)
        raise CheckpointError(f"{path}: holds a {record['class']}, which is none of {known}; a newer AutoTimm wrote it")
    model: TaskModel = MODEL_CLASSES[record["class"]](**constructor_arguments(record))
    model.restore(record)
    return model


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, AutoTimmError) else f"{type(error).__name__}: {text}"
