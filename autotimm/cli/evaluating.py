"""``autotimm evaluate``."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from autotimm.cli.console import err, out, progress_bar, write_json
from autotimm.cli.options import JsonOut, ModelPath, Provider, Threads, open_predictor
from autotimm.runtime.errors import ConfigError

if TYPE_CHECKING:
    from autotimm.evaluation import EvaluationReport

_WIDEST_TABLE = 20
"""Classes of the largest confusion matrix that is shown on a terminal."""
_LARGEST_IN_JSON = 100
"""Classes of the largest one that is in the JSON without being asked for."""


def evaluate(
    model: ModelPath,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|CSV",
            help="An image folder, a folder of images and boxes or masks, or a CSV file of images and labels or boxes.",
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            help="Which part of the data; all: the whole of a folder of classes that has no parts. "
            "A CSV file is evaluated whole."
        ),
    ] = "val",
    annotations: Annotated[
        Path | None, typer.Option(help="Annotations of boxes, or masks, where they are not in their usual place.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the paths in a CSV file or in annotations begin.")
    ] = None,
    data_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of boxes: coco, csv, voc or yolo; of masks: png, voc, cityscapes or coco; auto recognises it.",
        ),
    ] = "auto",
    bad_annotations: Annotated[
        str, typer.Option(help="Boxes, masks and images that cannot be used: refuse, or skip with a warning.")
    ] = "refuse",
    ignore_index: Annotated[
        int | None,
        typer.Option(help="Masks: the number of unlabelled pixels; a checkpoint's own, else 255, if absent."),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(
            metavar="OVERLAP",
            help="Masks: see large images unscaled, in windows of which neighbours share this part, such as 0.25.",
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show the IoU or the average precision of each class as well.")
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further metric by its name in torchmetrics, with torchmetrics' defaults, such as AUROC or "
            "MulticlassF1Score; may be repeated.",
        ),
    ] = None,
    confusion_matrix: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write which classes were taken for which; of images or pixels."),
    ] = None,
    json_out: JsonOut = None,
    provider: Provider = "cpu",
    threads: Threads = None,
) -> None:
    """Measure a checkpoint or an artifact on a data set; both by the same code."""
    from autotimm.evaluation import evaluation_report
    from autotimm.metrics import MetricConfig

    with open_predictor(model, provider, threads) as predictor, progress_bar() as progress:
        task = predictor.manifest.task
        if confusion_matrix is not None and task not in ("classification", "semantic_segmentation"):
            raise ConfigError(f"--confusion-matrix is for classes of images or pixels, and {model} is for {task}")
        report = evaluation_report(
            predictor,
            data,
            split=split,
            annotations=annotations,
            images=images,
            format=data_format,
            bad_annotations=bad_annotations,
            ignore_index=ignore_index,
            sliding_window=window,
            metrics=[MetricConfig(name) for name in metric or ()],
            progress=lambda paths: progress.track(paths, description="evaluating"),
        )
    if confusion_matrix is not None:
        _write_confusion(report, confusion_matrix)
    if json_out is not None:
        content = _as_json(report, always=confusion_matrix is not None)
        if per_class:
            content["per_class"] = report.per_class()
        write_json({"model": str(model), "data": str(data), "split": split, **content}, json_out)
        return
    table = Table("metric", "value", box=None)
    for name, value in report.metrics.items():
        table.add_row(name, _shown(value, report))
    for name, value in report.per_class().items() if per_class else ():
        table.add_row(f"  {name}", f"{value:.4f}")
    out.print(table)
    if confusion_matrix is not None:
        if len(report.class_names) <= _WIDEST_TABLE:
            out.print(_confusion_table(report))
        err.print(f"wrote {confusion_matrix}")


def _shown(value: float, report: EvaluationReport) -> str:
    if math.isnan(value):
        return "not defined"
    # COCO's way to say so
    return "nothing annotated" if value == -1 and not report.has_confusion else f"{value:.4f}"


def _as_json(report: EvaluationReport, *, always: bool) -> dict[str, Any]:
    """The report in plain types; ``null`` where a figure is not defined, since JSON has no word for it."""
    content: dict[str, Any] = {
        "images": report.images,
        "class_names": list(report.class_names),
        "metrics": {name: value if math.isfinite(value) else None for name, value in report.metrics.items()},
    }
    if report.has_confusion and (always or len(report.class_names) <= _LARGEST_IN_JSON):
        content["confusion_matrix"] = report.confusion().tolist()
    return content


def _write_confusion(report: EvaluationReport, path: Path) -> None:
    from autotimm.runtime.files import replacing

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(report.confusion_table())


def _confusion_table(report: EvaluationReport) -> Table:
    headings, *rows = report.confusion_table()
    table = Table(box=None)
    for index, heading in enumerate(headings):
        table.add_column(str(heading), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table
