"""int8 over fp32 on ONNX Runtime's CPU provider, side by side: ``python -m autotimm.benchmarks.precision_speed``.

Random weights, which cost the same time as trained ones. All layers are quantised that can be, apart from those that
give the answers; a second row keeps the first layers in fp32 too, the most expensive ones that a sensitivity pass is
likely to keep. Needs the extra ``export``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from autotimm.benchmarks.ratios import Opener, bare_session, medians, picture_for, ratio
from autotimm.export import export_to_onnx
from autotimm.export.quantization import QuantizableGraph
from autotimm.export.ranges import measure_ranges
from autotimm.models import ImageClassifier, TaskModel, YOLOXDetector
from autotimm.runtime.environment import installed_version
from autotimm.runtime.resize import fit_image

MODELS: dict[str, Callable[[], TaskModel]] = {
    "yolox-s": lambda: YOLOXDetector("yolox-s", 80),
    "yolox-nano": lambda: YOLOXDetector("yolox-nano", 80),
    "resnet50": lambda: ImageClassifier("resnet50", 1000, pretrained=False),
}
FIRST = 3
"""Layers kept in the second row."""


def measure(name: str, rounds: int, runs: int) -> list[tuple[str, ...]]:
    """Rows of one model: what, milliseconds, ratio to fp32."""
    torch.manual_seed(0)
    model = MODELS[name]()
    pixels, _ = fit_image(picture_for(480, 640), model.preprocess)
    feed = {"images": pixels[None]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fp32.onnx"
        export_to_onnx(model, path, verify=False)
        proto = onnx.load(path)
    graph = QuantizableGraph(proto, "onnxruntime")
    ranges = measure_ranges(proto, graph.values_to_calibrate(), [feed], "minmax")
    graphs = {
        "fp32": proto,
        "int8": graph.quantized(ranges),
        f"int8, first {FIRST} layers fp32": graph.quantized(ranges, keep=graph.layers[:FIRST]),
    }
    openers: dict[str, Opener] = {
        what: partial(bare_session, one.SerializeToString(), feed) for what, one in graphs.items()
    }
    found = medians(openers, rounds=rounds, runs=runs)
    height, width = model.preprocess.size
    return [
        (
            f"{name} {height}x{width}",
            what,
            f"{statistics.median(times):.1f}",
            f"{ratio(times, found['fp32']):.2f}",
            f"{np.min(times):.1f} - {np.max(times):.1f}",
        )
        for what, times in found.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="int8 over fp32 on ONNX Runtime, side by side.")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"of: {', '.join(MODELS)} (yolox-s, resnet50)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the graphs take (default 5)")
    parser.add_argument("--runs", type=int, default=10, help="runs of a turn (default 10)")
    arguments = parser.parse_args()
    names = arguments.names or ["yolox-s", "resnet50"]
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"no network is called {', '.join(unknown)}: {', '.join(MODELS)}")
    table = Table("network", "precision", "ms", "over fp32", "ms of the turns", box=None)
    for name in names:
        for row in measure(name, arguments.rounds, arguments.runs):
            table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    console.print(f"onnxruntime {installed_version('onnxruntime')}")


if __name__ == "__main__":
    main()
