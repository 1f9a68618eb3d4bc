"""What masks cost beyond the engine: ``python -m autotimm.benchmarks.segmentation_runtime``.

Measures ``predict()`` of exported segmentation models with random weights over the bare run of their graphs, in turns,
on one decoded photo. Needs the extra ``export``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from autotimm.benchmarks.ratios import picture_for, ratio
from autotimm.benchmarks.timing import clock
from autotimm.export import export_to_onnx
from autotimm.models import InstanceSegmentor, SemanticSegmentor, TaskModel
from autotimm.runtime import Instances, load
from autotimm.runtime.environment import diagnose

BUDGETS = {"semantic_segmentation": 1.25, "instance_segmentation": 1.5}
"""Of the ratio; for objects with ``OBJECTS`` of them, their masks pasted into the photo."""
OBJECTS = 100
PHOTOS = ((480, 640), (1080, 1920))
WARM_UP = 3
"""Pairs of runs that do not count."""


@dataclass(frozen=True)
class Row:
    """One model on one size of photo."""

    task: str
    architecture: str
    photo: tuple[int, int]
    """``(height, width)``."""
    objects: int
    """How many were found and pasted; 0 for semantic segmentation."""
    session_ms: float
    predict_ms: float
    ratio: float
    """The median of the ratios taken pair by pair."""
    budget: float

    @property
    def kept(self) -> bool:
        """Whether the ratio is within the budget."""
        return self.ratio <= self.budget


def measure(backbone: str, side: int, runs: int) -> Iterator[Row]:
    """Both tasks at ``side`` x ``side``, each on a small and on a large photo."""
    torch.manual_seed(0)
    models: list[TaskModel] = [
        SemanticSegmentor(backbone, 21, pretrained=False),
        InstanceSegmentor(backbone, 80, pretrained=False, score_thresh=1e-4, nms_thresh=0.9),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            model.preprocess = replace(model.preprocess, size=(side, side))
            artifact = Path(folder) / f"{model.task}.onnx"
            export_to_onnx(model.eval(), artifact, verify=False)
            for photo in PHOTOS:
                yield ratio_of(artifact, photo, runs=runs)


def ratio_of(artifact: Path, photo: tuple[int, int], *, runs: int) -> Row:
    """``predict()`` over the bare session of an artifact, on a decoded photo of this ``(height, width)``.

    The two take turns within one session, so that a machine whose speed drifts does not bend the ratio.
    """
    image = picture_for(*photo)
    with load(artifact) as predictor:
        manifest = predictor.manifest
        batch = predictor.as_input([predictor.prepare(image)[0]])
        result = predictor.predict(image)
        session, predict = [], []
        for _ in range(runs + WARM_UP):
            session.append(1000 * clock(lambda: predictor.run(batch)))
            predict.append(1000 * clock(lambda: predictor.predict(image)))
    session, predict = session[WARM_UP:], predict[WARM_UP:]
    medians = statistics.median(session), statistics.median(predict)
    objects = len(result) if isinstance(result, Instances) else 0
    return Row(
        manifest.task, manifest.architecture, photo, objects, *medians, ratio(predict, session), BUDGETS[manifest.task]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure predict() of segmentation over the bare session.")
    parser.add_argument("--backbone", default="resnet18", help="of both models (default resnet18)")
    parser.add_argument("--size", type=int, default=512, help="side of the network input (default 512)")
    parser.add_argument("--runs", type=int, default=30, help="pairs of runs (default 30)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    options = parser.parse_args(arguments)
    found = measure(options.backbone, options.size, options.runs)
    rows = list(track(found, total=2 * len(PHOTOS), description="measuring", console=Console(stderr=True)))
    if options.json:
        options.json.write_text(json.dumps([{**asdict(row), "kept": row.kept} for row in rows], indent=1) + "\n")
    table = Table("model", "photo", "objects", "session ms", "predict ms", "ratio", "budget", "kept", box=None)
    for row in rows:
        size = f"{row.photo[1]}x{row.photo[0]}"
        times = (f"{row.session_ms:.1f}", f"{row.predict_ms:.1f}", f"{row.ratio:.3f}", f"{row.budget:g}")
        table.add_row(f"{row.architecture} {options.size}", size, str(row.objects), *times, "yes" if row.kept else "NO")
    console = Console(width=160)
    console.print(table)
    console.print("\n".join(f"{f.what}: {f.found}" for f in diagnose() if f.works), f"torch {torch.__version__}")
    console.print(f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
