"""Evaluating whatever predicts: a PyTorch model, a checkpoint, an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotimm.data.bad_images import BadImages
from autotimm.data.boxed import BoxedImage
from autotimm.data.boxed_samples import check_size
from autotimm.data.tables import SEPARATOR
from autotimm.evaluation.fitting import check_data_fits
from autotimm.evaluation.report import EvaluationReport
from autotimm.evaluation.samples import read_evaluation_set
from autotimm.evaluation.windows import check_overlap, stream_windows
from autotimm.metrics import MetricConfig, Stage, build_metric
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import TorchBackend, predictor_of
from autotimm.runtime import Predictor, is_artifact, load
from autotimm.runtime.errors import ConfigError, DataError, ImageError
from autotimm.runtime.results import Result


def evaluate(
    model: TaskModel | Predictor | str | Path,
    data: str | Path,
    *,
    split: str = "val",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    format: str = "auto",  # noqa: A002 - as the argument of the data module
    bad_annotations: str = "refuse",
    bad_images: str = "refuse",
    columns: Mapping[str, str] | None = None,
    label_separator: str = SEPARATOR,
    ignore_index: int | None = None,
    class_mapping: Mapping[Any, Any] | None = None,
    sliding_window: float | None = None,
    metrics: Sequence[MetricConfig | Mapping[str, Any]] = (),
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> dict[str, float]:
    """The metrics of a model's task on a data set.

    Args:
        model: a model, a predictor, or the path of a checkpoint or an ``.onnx`` artifact.
        data: root of the data set: an image folder; images and boxes in COCO JSON, CSV, Pascal VOC or YOLO files;
            images and masks; also a CSV file, as the data modules read them.
        split: which part of it; ``all`` for the whole of a folder of classes that has no parts. A CSV file is
            evaluated whole.
        annotations: detection and instances: the annotation file, where it is not in its usual place under ``data``;
            semantic segmentation: the folder of the masks, VOC's list or COCO's file.
        images: the folder that the paths in a CSV file, or in ``annotations``, are taken from; looked for where absent.
        format: detection: ``coco``, ``csv``, ``voc`` or ``yolo``; semantic segmentation: ``png``, ``voc``,
            ``cityscapes`` or ``coco``; ``auto`` recognises it.
        bad_annotations: detection and segmentation: ``refuse`` annotations that cannot be used, or ``skip`` them with a
            warning.
        bad_images: ``refuse`` an image that cannot be read or is of another size than annotated, or ``skip`` it with a
            warning: the figures are then of the others.
        columns: of a CSV file, where their names are others: ``{"label": "class_id"}``. The roles are ``image``,
            ``label``, and for boxes ``xmin``, ``ymin``, ``xmax``, ``ymax``.
        label_separator: for a multi-label model: between the names in a cell.
        ignore_index: semantic segmentation: of pixels that are not labelled; a checkpoint's own, else 255, where
            absent.
        class_mapping: semantic segmentation: from numbers or colours in the masks to names of the model's classes, as
            ``SegmentationDataModule`` takes it.
        sliding_window: semantic segmentation: images are not scaled, but seen in windows of the size of the network's
            input, of which neighbours have at least this share in common, such as .25; see
            :func:`autotimm.evaluation.windows.predict_windows`.
        metrics: further metrics, whatever their stages. Those of a checkpoint's training are measured anyhow: what was
            for validation on the split ``val``, what was for the test on any other data.
        progress: wraps the list of images, to show a progress bar.

    Returns:
        Metrics by name, 0..1: ``accuracy`` and so on for classification, ``map`` and so on for detection and for
        several labels an image, ``miou`` and so on for semantic segmentation, ``mask_map`` and ``box_map`` and
        so on for instances; and the further ones.

    Raises:
        ConfigError: a further metric cannot be made or measured, or the data have no such column.
        DataError: the data cannot be read, is not of the model's task, an image of it is bad or of another size than
            its annotations, or it has classes that the model does not know.
    """
    report = evaluation_report(
        model,
        data,
        split=split,
        annotations=annotations,
        images=images,
        format=format,
        bad_annotations=bad_annotations,
        bad_images=bad_images,
        columns=columns,
        label_separator=label_separator,
        ignore_index=ignore_index,
        class_mapping=class_mapping,
        sliding_window=sliding_window,
        metrics=metrics,
        progress=progress,
    )
    return report.metrics


def evaluation_report(
    model: TaskModel | Predictor | str | Path,
    data: str | Path,
    *,
    split: str = "val",
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    format: str = "auto",  # noqa: A002 - as the argument of the data module
    bad_annotations: str = "refuse",
    bad_images: str = "refuse",
    columns: Mapping[str, str] | None = None,
    label_separator: str = SEPARATOR,
    ignore_index: int | None = None,
    class_mapping: Mapping[Any, Any] | None = None,
    sliding_window: float | None = None,
    metrics: Sequence[MetricConfig | Mapping[str, Any]] = (),
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> EvaluationReport:
    """What :func:`evaluate` gives, and beside it figures of each class, the confusion matrix of a classifier and the
    precision-recall curves of a detector; the arguments are the same.
    """
    if isinstance(model, str | Path):
        if is_artifact(model):
            with load(model) as predictor:
                return evaluation_report(
                    predictor,
                    data,
                    split=split,
                    annotations=annotations,
                    images=images,
                    format=format,
                    bad_annotations=bad_annotations,
                    bad_images=bad_images,
                    columns=columns,
                    label_separator=label_separator,
                    ignore_index=ignore_index,
                    class_mapping=class_mapping,
                    sliding_window=sliding_window,
                    metrics=metrics,
                    progress=progress,
                )
        model = load_checkpoint(model)
    predictor = predictor_of(model) if isinstance(model, TaskModel) else model
    manifest = predictor.manifest
    names = manifest.class_names
    multi_label = manifest.task == "classification" and manifest.postprocessing.get("activation") == "sigmoid"
    stage: Stage = "val" if split == "val" and Path(data).is_dir() else "test"
    ignored = _ignored(predictor) if ignore_index is None else ignore_index
    for_pixels = {"sliding_window": sliding_window, "ignore_index": ignore_index, "class_mapping": class_mapping}
    for what, value in for_pixels.items():
        if value is not None and manifest.task != "semantic_segmentation":
            raise ConfigError(f"{what} is for semantic segmentation, and this model is for {manifest.task}")
    metric = build_metric(
        manifest.task,
        len(names),
        class_names=names,
        multi_label=multi_label,
        threshold=manifest.thresholds.get("score", 0.5),
        ignore_index=ignored,
        extra=_further(predictor, [MetricConfig.of(one) for one in metrics], stage),
        stage=stage,
    )
    bad = BadImages(bad_images)
    check_data_fits(manifest.task, data, annotations, columns)
    samples = read_evaluation_set(
        manifest.task,
        data,
        names,
        split=split,
        annotations=annotations,
        multi_label=multi_label,
        images=images,
        format=format,
        bad_annotations=bad_annotations,
        columns=columns,
        label_separator=label_separator,
        ignore_index=ignored,
        class_mapping=class_mapping,
    )
    paths, measured = progress(samples.paths), 0
    if sliding_window is None:
        results: Iterable[Result | ImageError] = predictor.stream(paths)
    else:
        results = stream_windows(predictor, paths, check_overlap(sliding_window))
    for result, truth, annotated in zip(results, samples.truths, samples.annotated, strict=True):
        try:
            metric.update([_checked(result, annotated)], [truth])
        except (ImageError, DataError) as error:
            if bad.policy == "refuse":
                raise DataError(
                    f"a bad image: {error}; mend or remove it, or pass over such: bad_images='skip' "
                    "(evaluate: --bad-images skip)"
                ) from error
            bad.report(f"bad image: {error}")
        else:
            measured += 1
    if bad.seen and not measured:
        raise DataError(f"none of the {len(samples)} images can be evaluated; the first is a {next(iter(bad.seen))}")
    return EvaluationReport(metric.compute(), names, measured, metric, tuple(bad.seen))


def _checked(result: Result | ImageError, annotated: BoxedImage | None) -> Result:
    """A result that is there and of an image as large as annotated."""
    if isinstance(result, ImageError):
        raise result
    if annotated is not None:
        check_size(annotated, result.image_size)
    return result


def _ignored(predictor: Predictor) -> int:
    """The ignore index of a checkpoint's model; 255 where there is none."""
    model = predictor.backend.model if isinstance(predictor.backend, TorchBackend) else None
    return int(getattr(model, "ignore_index", 255))


def _further(predictor: Predictor, given: Sequence[MetricConfig], stage: Stage) -> list[MetricConfig]:
    """The metrics to measure beside the task's own; one that is given stands for a checkpoint's of the same name."""
    model = predictor.backend.model if isinstance(predictor.backend, TorchBackend) else None
    replaced = {config.name for config in given}
    trained = [config for config in model.metrics if config.name not in replaced] if model is not None else []
    return [*trained, *(replace(config, stages=(stage,)) for config in given)]
