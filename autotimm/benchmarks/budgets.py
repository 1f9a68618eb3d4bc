"""The latency budgets of the project, measured: ``python -m autotimm.benchmarks.budgets``.

Prints one row a budget: what was measured, the figure, the budget, and whether it is kept. Needs the extra ``export``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from autotimm.benchmarks.ratios import bare_session, medians, picture_for, ratio
from autotimm.export import export_to_onnx
from autotimm.models import ImageClassifier, TaskModel, YOLOXDetector
from autotimm.models.detection import DetectionModel
from autotimm.runtime import load
from autotimm.runtime.environment import diagnose
from autotimm.runtime.resize import fit_image

CANDIDATES_IN_NMS = 300
"""Candidates above the score threshold, for networks with random weights: a crowded photo at the threshold of .01."""


@dataclass(frozen=True)
class Row:
    """One budget and what was measured."""

    what: str
    figure: float
    unit: str
    budget: float
    detail: str

    @property
    def kept(self) -> bool:
        """Whether the figure is within the budget."""
        return self.figure <= self.budget


def measure(rounds: int, weights: Path | None) -> list[Row]:
    """All rows; ``weights`` are official YOLOX-nano weights, random ones stand in for them."""
    torch.manual_seed(0)
    nano = YOLOXDetector.from_official(weights) if weights else YOLOXDetector("yolox-nano", 80)
    steps: list[Callable[[], Row]] = [
        lambda: import_time(rounds),
        lambda: help_time(rounds),
        lambda: predict_ratio(YOLOXDetector("yolox-s", 80), 1.10, rounds, runs=8),
        lambda: predict_ratio(nano, 1.35, rounds, runs=40),
        lambda: predict_ratio(ImageClassifier("resnet50", 1000, pretrained=False), 1.15, rounds, runs=20),
        export_time,
    ]
    return [step() for step in track(steps, description="measuring", console=Console(stderr=True), transient=True)]


def import_time(rounds: int) -> Row:
    """``import autotimm.runtime`` over ``import numpy, PIL.Image``, each in a fresh interpreter."""
    ours, base = [], []
    for _ in range(3 * rounds):
        base.append(_command_seconds([sys.executable, "-c", "import numpy, PIL.Image"]))
        ours.append(_command_seconds([sys.executable, "-c", "import autotimm.runtime"]))
    more = 1000 * statistics.median(our - other for our, other in zip(ours, base, strict=True))
    return Row(
        "import autotimm.runtime over numpy, PIL", more, "ms", 60, f"{1000 * statistics.median(ours):.0f} ms in all"
    )


def help_time(rounds: int) -> Row:
    """``autotimm --help`` as a whole process."""
    seconds = [_command_seconds([sys.executable, "-m", "autotimm", "--help"]) for _ in range(3 * rounds)]
    return Row("autotimm --help", statistics.median(seconds), "s", 0.4, "whole process")


def predict_ratio(model: TaskModel, budget: float, rounds: int, runs: int) -> Row:
    """``predict()`` on a decoded 640x480 image over a bare ONNX Runtime session of the network alone."""
    model.eval()
    image = picture_for(480, 640)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact.onnx"
        threshold = busy_threshold(model, image) if isinstance(model, DetectionModel) else None
        export_to_onnx(model, artifact, score_threshold=threshold, verify=False)
        network, feed = network_alone(model, image)

        @contextmanager
        def predicting() -> Iterator[Callable[[], object]]:
            with load(artifact) as predictor:
                yield lambda: predictor.predict(image)

        @contextmanager
        def graph_alone() -> Iterator[Callable[[], object]]:
            with load(artifact) as predictor:
                batch = predictor.as_input([predictor.prepare(image)[0]])
                yield lambda: predictor.run(batch)

        openers = {"network": lambda: bare_session(network, feed), "predict": predicting, "graph": graph_alone}
        found = medians(openers, rounds=rounds, runs=runs)
    height, width = model.preprocess.size
    network_ms, predict_ms = (statistics.median(found[name]) for name in ("network", "predict"))
    return Row(
        f"predict() over the bare network, {model.architecture} {height}x{width}",
        ratio(found["predict"], found["network"]),
        "x",
        budget,
        f"{predict_ms:.1f} / {network_ms:.1f} ms; graph alone {ratio(found['graph'], found['network']):.2f}x",
    )


def network_alone(model: TaskModel, image: np.ndarray) -> tuple[bytes, dict[str, np.ndarray]]:
    """The network without pre- and post-processing as ONNX, and its float32 input for an image."""
    pixels, _ = fit_image(image, model.preprocess)
    with torch.no_grad():
        inputs = model.normalize(torch.from_numpy(pixels[None])).contiguous()
    program = torch.onnx.export(
        model.network, (inputs,), dynamo=True, opset_version=18, input_names=["pixels"], verbose=False
    )
    assert program is not None  # dynamo=True always gives a program
    return program.model_proto.SerializeToString(), {"pixels": inputs.numpy()}


def export_time() -> Row:
    """``autotimm export`` of YOLOX-s, verification included, as a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = YOLOXDetector("yolox-s", 80).save(Path(folder) / "yolox_s.ckpt")
        command = [sys.executable, "-m", "autotimm", "export", str(checkpoint), "-o", str(Path(folder) / "s.onnx")]
        return Row("export of YOLOX-s with verification", _command_seconds(command), "s", 45, "whole process")


def busy_threshold(model: DetectionModel, image: np.ndarray) -> float:
    """The model's own threshold, or one that lets ``CANDIDATES_IN_NMS`` through where random weights find nothing."""
    pixels, _ = fit_image(image, model.preprocess)
    with torch.no_grad():
        _, scores, _ = model.decode(model.network(model.normalize(torch.from_numpy(pixels[None]))))
    if int((scores >= model.score_thresh).sum()) > 0:
        return model.score_thresh
    return float(scores[0].sort(descending=True).values[CANDIDATES_IN_NMS])


def _command_seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the latency budgets.")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the engines take (default 5)")
    parser.add_argument("--weights", type=Path, help="official YOLOX-nano weights (random ones if absent)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds, arguments.weights)
    if arguments.json:
        arguments.json.write_text(json.dumps([{**asdict(row), "kept": row.kept} for row in rows], indent=1) + "\n")
    table = Table("what", "figure", "budget", "kept", "detail", box=None)
    for row in rows:
        table.add_row(
            row.what, f"{row.figure:.2f} {row.unit}", f"{row.budget:g}", "yes" if row.kept else "NO", row.detail
        )
    console = Console(width=160)
    console.print(table)
    console.print("\n".join(f"{f.what}: {f.found}" for f in diagnose() if f.works), f"torch {torch.__version__}")
    console.print(f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
