"""``autotimm evaluate``."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from autotimm.cli.console import err, out, print_table, progress_bar, write_json
from autotimm.cli.options import JsonOut, ModelPath, Provider, Threads, open_predictor
from autotimm.runtime.errors import ConfigError

if TYPE_CHECKING:
    from autotimm.evaluation import EvaluationReport

_WIDEST_TABLE = 20
"""Classes of the largest confusion matrix that is shown on a terminal."""
_SHORT = {"best_f1": "f1", "threshold": "score", "precision": "prec."}
"""Headings with which the figures of each class fit on a terminal of 80 columns."""
_LARGEST_IN_JSON = 100
"""Classes of the largest one, and the most classes, that are in the JSON without being asked for."""


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
    bad_images: Annotated[
        str, typer.Option(help="Images that cannot be read or are of another size: refuse, or skip with a warning.")
    ] = "refuse",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="What a column of a CSV file is called: label=class_id; roles are image, label, xmin, ymin, xmax, "
            "ymax; may be repeated.",
        ),
    ] = None,
    label_separator: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Between the names in a cell of a CSV file, for several labels an image."),
    ] = "|",
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
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further metric by its name in torchmetrics, with torchmetrics' defaults, such as AUROC or "
            "MulticlassF1Score; may be repeated.",
        ),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the figures of each class.")] = False,
    pr_curve: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.png|svg|csv",
            help="Draw or write precision over recall at IoU .5 and .75; of a detector; may be repeated.",
        ),
    ] = None,
    confusion_matrix: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write which classes were taken for which; of images or pixels."),
    ] = None,
    json_out: JsonOut = None,
    provider: Provider = None,
    threads: Threads = None,
) -> None:
    """Measure a checkpoint or an artifact on a data set; both by the same code."""
    from autotimm.evaluation import evaluation_report
    from autotimm.evaluation.precision_recall import check_curve_file
    from autotimm.metrics import MetricConfig

    columns = _columns(column or ())
    with open_predictor(model, provider, threads) as predictor, progress_bar() as progress:
        task = predictor.manifest.task
        if confusion_matrix is not None and task not in ("classification", "semantic_segmentation"):
            raise ConfigError(f"--confusion-matrix is for classes of images or pixels, and {model} is for {task}")
        if pr_curve and task != "detection":
            raise ConfigError(f"--pr-curve is for detectors, and {model} is for {task}")
        for file in pr_curve or ():
            check_curve_file(file)
        report = evaluation_report(
            predictor,
            data,
            split=split,
            annotations=annotations,
            images=images,
            format=data_format,
            bad_annotations=bad_annotations,
            bad_images=bad_images,
            columns=columns,
            label_separator=label_separator,
            ignore_index=ignore_index,
            sliding_window=window,
            metrics=[MetricConfig(name) for name in metric or ()],
            progress=lambda paths: progress.track(paths, description="evaluating"),
        )
    # the figures first: what took long is not lost where a file cannot be written
    if json_out is not None:
        content = _as_json(report, confusion=confusion_matrix is not None, per_class=per_class)
        write_json({"model": str(model), "data": str(data), "split": split, **content}, json_out)
    if str(json_out) != "-":
        _show(report, confusion=confusion_matrix is not None, per_class=per_class)
    if confusion_matrix is not None:
        _write_confusion(report, confusion_matrix)
    for file in pr_curve or ():
        report.precision_recall().save(file)
    written = [file for file in (json_out, confusion_matrix, *(pr_curve or ())) if file is not None]
    for file in written:
        if str(file) != "-":
            err.print(f"wrote {file}")


def _show(report: EvaluationReport, *, confusion: bool, per_class: bool) -> None:
    """The figures as tables."""
    table = Table("metric", "value", box=None)
    for name, value in report.metrics.items():
        table.add_row(name, _shown(value, report))
    print_table(table)
    if per_class:
        out.print()
        print_table(_per_class_table(report.per_class()))
    if confusion and len(report.class_names) <= _WIDEST_TABLE:
        out.print()
        print_table(_confusion_table(report))
    if report.bad_images:
        err.print(f"passed over {len(report.bad_images)} bad images; the figures are of the other {report.images}")


def _columns(given: Sequence[str]) -> dict[str, str]:
    """``ROLE=NAME`` as roles and names."""
    pairs = [text.partition("=") for text in given]
    for role, _, name in pairs:
        if not role or not name:
            raise ConfigError(f"--column {role} must be ROLE=NAME, such as label=class_id")
    return {role.strip(): name.strip() for role, _, name in pairs}


def _shown(value: float, report: EvaluationReport) -> str:
    if math.isnan(value):
        return "not defined"
    # COCO's way to say so
    return "nothing annotated" if value == -1 and not report.has_confusion else f"{value:.4f}"


def _as_json(report: EvaluationReport, *, confusion: bool, per_class: bool) -> dict[str, Any]:
    """The report in plain types; ``null`` where a figure is not defined, since JSON has no word for it.

    Confusion and classes are told of where there are few classes, or where they are asked for.
    """
    few = len(report.class_names) <= _LARGEST_IN_JSON
    content: dict[str, Any] = {
        "images": report.images,
        "class_names": list(report.class_names),
        "metrics": {name: _or_null(value) for name, value in report.metrics.items()},
    }
    if report.bad_images:
        content["bad_images"] = list(report.bad_images)
    if per_class or (few and report.has_per_class):
        content["per_class"] = [{name: _or_null(value) for name, value in row.items()} for row in report.per_class()]
    if report.has_confusion and (confusion or few):
        content["confusion_matrix"] = report.confusion().tolist()
    return content


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_confusion(report: EvaluationReport, path: Path) -> None:
    from autotimm.runtime.files import replacing

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(report.confusion_table())


def _per_class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Figures of each class; a dash where one is not defined."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("class", overflow="fold")
    for name in [*rows[0]][1:]:
        table.add_column(_SHORT.get(name, name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    return table


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if name == "threshold":  # rounded down, so that the detection whose score it is stays above what is shown
        return f"{math.floor(value * 1e4) / 1e4:.4f}"
    return f"{value:.3f}"


def _confusion_table(report: EvaluationReport) -> Table:
    headings, *rows = report.confusion_table()
    table = Table(box=None)
    for index, heading in enumerate(headings):
        table.add_column(str(heading), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row))
    return table
