"""``autotimm evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from autotimm.cli.console import out, progress_bar, write_json
from autotimm.cli.options import JsonOut, ModelPath, Provider, Threads, open_predictor


def evaluate(
    model: ModelPath,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="An image folder, or a folder of COCO images and annotations.")
    ],
    split: Annotated[
        str, typer.Option(help="Which part of the data; all: the whole of a folder of classes that has no parts.")
    ] = "val",
    annotations: Annotated[Path | None, typer.Option(help="COCO JSON, where it is not in its usual place.")] = None,
    json_out: JsonOut = None,
    provider: Provider = "cpu",
    threads: Threads = None,
) -> None:
    """Measure a checkpoint or an artifact on a data set; both by the same code."""
    from autotimm.evaluation import evaluate as run_evaluation

    with open_predictor(model, provider, threads) as predictor, progress_bar() as progress:
        values = run_evaluation(
            predictor,
            data,
            split=split,
            annotations=annotations,
            progress=lambda images: progress.track(images, description="evaluating"),
        )
    if json_out is not None:
        write_json({"model": str(model), "data": str(data), "split": split, "metrics": values}, json_out)
        return
    table = Table("metric", "value", box=None)
    for name, value in values.items():
        table.add_row(name, f"{value:.4f}" if value >= 0 else "nothing annotated")
    out.print(table)
