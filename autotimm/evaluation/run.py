"""Evaluating whatever predicts: a PyTorch model, a checkpoint, an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from autotimm.data.bad_images import BadImages
from autotimm.data.boxed import BoxedImage
from autotimm.data.boxed_samples import check_size
from autotimm.data.tables import SEPARATOR
from autotimm.evaluation.fitting import check_data_fits, check_options_fit
from autotimm.evaluation.report import EvaluationReport
from autotimm.evaluation.samples import EvaluationSet, read_evaluation_set
from autotimm.evaluation.windows import check_overlap, stream_windows
from autotimm.metrics import MetricConfig, Stage, TaskMetric, build_metric
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import TorchBackend, predictor_of
from autotimm.runtime import Predictor, is_artifact, load
from autotimm.runtime.errors import DataError, ImageError
from autotimm.runtime.results import Result

if TYPE_CHECKING:
    from typing_extensions import Unpack


class EvaluationOptions(TypedDict, total=False):
    """The keyword arguments of :func:`evaluation_report`, which says what they are."""

    split: str
    annotations: str | Path | None
    images: str | Path | None
    format: str
    bad_annotations: str
    bad_images: str
    columns: Mapping[str, str] | None
    label_separator: str
    ignore_index: int | None
    class_mapping: Mapping[Any, Any] | None
    sliding_window: float | None
    metrics: Sequence[MetricConfig | Mapping[str, Any]]
    progress: Callable[[Sequence[Any]], Iterable[Any]]


def evaluate(
    model: TaskModel | Predictor | str | Path, data: str | Path, **options: Unpack[EvaluationOptions]
) -> dict[str, float]:
    """The metrics of a model's task on a data set: ``evaluate("cells.onnx", "data/cells", split="test")``.

    Args:
        model: a model, a predictor, or the path of a checkpoint or an artifact.
        data: root of the data set.
        **options: as :func:`evaluation_report` takes them, errors likewise.

    Returns:
        Metrics by name, 0..1: ``accuracy`` and so on for classification, ``map`` and so on for detection and for
        several labels an image, ``miou`` and so on for semantic segmentation, ``mask_map`` and ``box_map`` and
        so on for instances; and the further ones.
    """
    return evaluation_report(model, data, **options).metrics


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
    """The metrics of a model's task on a data set, those of each class, and what else the task has.

    That is the confusion matrix of a classifier or of semantic segmentation, and the precision-recall curves of a
    detector.

    Args:
        model: a model, a predictor, or the path of a checkpoint or an artifact.
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

    Raises:
        ConfigError: a further metric cannot be made or measured, the data have no such column, or an option is not for
            this task.
        DataError: the data cannot be read, is not of the model's task, an image of it is bad or of another size than
            its annotations, or it has classes that the model does not know.
    """
    with _predicting(model) as predictor:
        manifest = predictor.manifest
        chosen = {
            "format": format != "auto",
            "bad_annotations": bad_annotations != "refuse",
            "label_separator": label_separator != SEPARATOR,
            "ignore_index": ignore_index is not None,
            "class_mapping": class_mapping is not None,
            "sliding_window": sliding_window is not None,
        }
        check_options_fit(manifest.task, [name for name, is_chosen in chosen.items() if is_chosen])
        multi_label = manifest.task == "classification" and manifest.postprocessing.get("activation") == "sigmoid"
        ignored = _ignored(predictor) if ignore_index is None else ignore_index
        stage: Stage = "val" if split == "val" and Path(data).is_dir() else "test"
        further = _further(predictor, [MetricConfig.of(one) for one in metrics], stage)
        metric = build_metric(
            manifest.task,
            len(manifest.class_names),
            class_names=manifest.class_names,
            multi_label=multi_label,
            threshold=manifest.thresholds.get("score", 0.5),
            ignore_index=ignored,
            extra=further,
            stage=stage,
        )
        bad = BadImages(bad_images)
        check_data_fits(manifest.task, data, annotations, columns)
        samples = read_evaluation_set(
            manifest.task,
            data,
            manifest.class_names,
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
        paths = progress(samples.paths)
        results: Iterable[Result | ImageError]
        if sliding_window is None:
            results = predictor.stream(paths)
        else:
            results = stream_windows(predictor, paths, check_overlap(sliding_window))
        measured = _measure(metric, results, samples, bad)
        return EvaluationReport(metric.compute(), manifest.class_names, measured, metric, tuple(bad.seen))


@contextmanager
def _predicting(model: TaskModel | Predictor | str | Path) -> Iterator[Predictor]:
    """Whatever predicts as a predictor; an artifact that is opened here is closed again."""
    if isinstance(model, str | Path) and is_artifact(model):
        with load(model) as predictor:
            yield predictor
        return
    if isinstance(model, str | Path):
        model = load_checkpoint(model)
    yield predictor_of(model) if isinstance(model, TaskModel) else model


def _measure(metric: TaskMetric, results: Iterable[Result | ImageError], samples: EvaluationSet, bad: BadImages) -> int:
    """Give the metric all results with their truths; how many could be given.

    Raises:
        DataError: an image is bad, and refused; or all are.
    """
    measured = 0
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
    return measured


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
