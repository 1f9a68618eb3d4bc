"""What both forms of NMS cost in ONNX Runtime: ``python -m autotimm.benchmarks.nms``.

Exports YOLOX with either form and several numbers of candidates, and prints the time of the whole graph over the bare
network. The default of ``export_to_onnx`` was chosen from this table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from autotimm.benchmarks.budgets import busy_threshold, network_alone
from autotimm.benchmarks.ratios import Opener, bare_session, medians, picture_for, ratio
from autotimm.export import export_to_onnx
from autotimm.export.graph.detection import NmsForm
from autotimm.models import YOLOXDetector
from autotimm.runtime import load

VARIANTS: tuple[tuple[NmsForm, int], ...] = (
    ("operator", 300),
    ("operator", 1000),
    ("operator", 3000),
    ("tensor", 300),
    ("tensor", 512),
    ("tensor", 1000),
)


@contextmanager
def _graph(artifact: Path) -> Iterator[Callable[[], object]]:
    with load(artifact) as predictor:
        batch = predictor.prepare(picture_for(480, 640))[0][None]
        yield lambda: predictor.run(batch)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure both forms of NMS in ONNX Runtime.")
    parser.add_argument("--model", default="yolox-nano", help="size of YOLOX (default yolox-nano)")
    parser.add_argument("--weights", type=Path, help="official weights (random ones if absent)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    model = (
        YOLOXDetector.from_official(arguments.weights) if arguments.weights else YOLOXDetector(arguments.model).eval()
    )
    image = picture_for(480, 640)
    network, feed = network_alone(model, image)
    openers: dict[str, Opener] = {"bare network": lambda: bare_session(network, feed)}
    with tempfile.TemporaryDirectory() as folder:
        for form, candidates in VARIANTS:
            artifact = Path(folder) / f"{form}-{candidates}.onnx"
            export_to_onnx(
                model,
                artifact,
                nms=form,
                candidates=candidates,
                score_threshold=busy_threshold(model, image),
                verify=False,
            )
            openers[f"{form}, {candidates} candidates"] = partial(_graph, artifact)
        found = medians(openers, rounds=arguments.rounds, runs=arguments.runs)
    table = Table("graph", "ms", "over the bare network", title=model.architecture, box=None)
    for name, values in found.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{ratio(values, found['bare network']):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
