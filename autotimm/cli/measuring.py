"""``autotimm benchmark``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from autotimm.cli.console import out, working, write_json
from autotimm.cli.options import JsonOut, Provider, Threads, open_predictor

if TYPE_CHECKING:
    from autotimm.benchmarks.latency import LatencyReport


def benchmark(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Artifacts, measured one after another.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to run on; generated ones if absent.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs per model.")] = 100,
    json_out: JsonOut = None,
    provider: Provider = None,
    threads: Threads = None,
) -> None:
    """Measure latency stage by stage, and what predict() costs over the bare graph."""
    from autotimm.benchmarks.latency import measure_latency
    from autotimm.benchmarks.timing import Stopwatch
    from autotimm.runtime import list_images
    from autotimm.runtime.environment import diagnose
    from autotimm.runtime.pictures import write_pictures

    reports = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = list_images(images) if images is not None else write_pictures(Path(folder))
        for path in models:
            with (
                working(f"measuring {path.name}"),
                Stopwatch() as loading,
                open_predictor(path, provider, threads) as predictor,
            ):
                reports.append(measure_latency(predictor, path, chosen, runs=runs, load_ms=loading.lap()))
    environment = {finding.what: finding.found for finding in diagnose() if finding.works}
    if json_out is not None:
        source = str(images) if images is not None else "generated"
        write_json({"environment": environment, "images": source, "models": [r.to_dict() for r in reports]}, json_out)
    if str(json_out) != "-":
        for report in reports:
            _print(report)
        out.print("\n".join(f"{name}: {value}" for name, value in environment.items()), style="dim")


def _print(report: LatencyReport) -> None:
    out.print(f"{report.model} on {report.backend}", style="bold")
    table = Table("milliseconds" if report.batch == 1 else f"milliseconds for {report.batch} images", box=None)
    for column in ("p50", "p90", "p99"):
        table.add_column(column, justify="right")
    for name, timing in report.stages.items():
        table.add_row(name, *(f"{value:.2f}" for value in (timing.p50, timing.p90, timing.p99)))
    out.print(table)
    out.print(f"{report.throughput:.1f} images/s, {_pace(report.batch)}")
    out.print(f"predict() takes {report.overhead:.2f} times the bare session")
    out.print(
        f"{report.file_mb:.1f} MB, loaded in {report.load_ms:.0f} ms, first prediction {report.first_ms:.0f} ms\n"
    )


def _pace(batch: int) -> str:
    return "one after another" if batch == 1 else f"in batches of {batch}"
