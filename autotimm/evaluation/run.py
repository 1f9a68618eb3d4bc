"""Evaluating whatever predicts: a PyTorch model, a checkpoint, an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autotimm.data.detection import check_size
from autotimm.evaluation.samples import read_evaluation_set
from autotimm.metrics import ClassificationMetric, DetectionMetric
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime import Predictor, is_artifact, load
from autotimm.runtime.errors import DataError, ImageError

T = TypeVar("T")


def evaluate(
    model: TaskModel | Predictor | str | Path,
    data: str | Path,
    *,
    split: str = "val",
    annotations: str | Path | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, float]:
    """The metrics of a model's task on a data set.

    Args:
        model: a model, a predictor, or the path of a checkpoint or an ``.onnx`` artifact.
        data: root of the data set: an image folder, or COCO images and annotations.
        split: which part of it; ``all`` for the whole of a folder of classes that has no parts.
        annotations: detection: the COCO JSON file, where it is not in its usual place under ``data``.
        progress: wraps the list of images, to show a progress bar.

    Returns:
        Metrics by name, 0..1: ``accuracy`` and so on for classification, ``map`` and so on for detection.

    Raises:
        DataError: the data cannot be read, an image of it is bad or of another size than its annotations, or it
            has classes that the model does not know.
    """
    if isinstance(model, str | Path):
        if is_artifact(model):
            with load(model) as predictor:
                return evaluate(predictor, data, split=split, annotations=annotations, progress=progress)
        model = load_checkpoint(model)
    predictor = predictor_of(model) if isinstance(model, TaskModel) else model
    names = predictor.manifest.class_names
    samples = read_evaluation_set(predictor.manifest.task, data, names, split=split, annotations=annotations)
    metric = (DetectionMetric if predictor.manifest.task == "detection" else ClassificationMetric)(len(names))
    results = predictor.stream(progress(samples.paths))
    for result, truth, annotated in zip(results, samples.truths, samples.annotated, strict=True):
        if isinstance(result, ImageError):
            raise DataError(f"an image of the data cannot be read: {result}")
        if annotated is not None:
            check_size(annotated, result.image_size)
        metric.update([result], [truth])  # type: ignore[list-item]  # both follow from the task
    return metric.compute()
