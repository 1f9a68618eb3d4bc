"""The whole way, as a user walks it: train, export, verify, predict, benchmark. ``make demo`` runs this.

Every step is an ``autotimm`` command that could be typed by hand; the data is drawn by ``examples/shapes.py``. It ends
with exit status 1 if a step fails, or if the exported artifact is not as good as the checkpoint it was made from.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from shapes import COUNTS, make_shapes

ROOT = Path(__file__).resolve().parents[1]
RUN = Path("runs/demo")  # like every path below relative to ROOT, where the commands run
DATA, NEW = RUN / "shapes", RUN / "shapes/images/new"
CHECKPOINT, ARTIFACT = RUN / "train/checkpoints/best.ckpt", RUN / "shapes.onnx"
LEAST_AP50 = 0.6
"""A detector that has learned nothing would agree with its artifact too."""
LARGEST_AP_DIFFERENCE = 0.002

console = Console(highlight=False)


def main() -> None:
    """Run the demo in a fresh folder ``runs/demo``."""
    start = time.perf_counter()
    shutil.rmtree(ROOT / RUN, ignore_errors=True)
    step("Draw the data: circles, squares and triangles on photographs, as COCO JSON")
    make_shapes(ROOT / DATA)
    console.print(f"{COUNTS['train']} images to train on, {COUNTS['val']} to validate on: {DATA}", markup=False)

    step("Train YOLOX-nano from random weights; the best checkpoint is kept")
    autotimm("train", "examples/demo.yaml")

    step("Export it to one ONNX file, which is verified against the checkpoint before it gets its name")
    autotimm("export", CHECKPOINT, "--format", "onnx", "-o", ARTIFACT)

    step("Verify it once more, on images of your choice; the record is written into the artifact")
    autotimm("verify", ARTIFACT, "--against", CHECKPOINT, "--images", NEW)

    step("Measure both on the validation images, by the same code")
    checkpoint = evaluated(CHECKPOINT, RUN / "checkpoint.json")
    artifact = evaluated(ARTIFACT, RUN / "artifact.json")

    step("Predict on images that nothing has seen")
    pictures = RUN / "pictures"
    shown = ("--min-score", "0.4", "--save", pictures)
    autotimm("predict", ARTIFACT, NEW, *shown, "--json", RUN / "predictions.json")

    step("Measure its latency")
    autotimm("benchmark", ARTIFACT, "--images", NEW, "--json", RUN / "benchmark.json")

    step("Ask the artifact about itself")
    autotimm("inspect", ARTIFACT)
    autotimm("inspect", ARTIFACT, "--json", RUN / "manifest.json")

    step("Summary")
    show_summary(checkpoint, artifact, read_json(RUN / "manifest.json")["verification"])
    check_pictures(pictures)
    console.print(f"annotated pictures: {ROOT / pictures}", markup=False, soft_wrap=True)
    console.print(f"artifact:           {ROOT / ARTIFACT}", markup=False, soft_wrap=True)
    console.print(f"{time.perf_counter() - start:.0f} s in all")
    check_accuracy(checkpoint, artifact)


def step(title: str) -> None:
    """Announce what comes next."""
    console.print(f"\n[bold cyan]{title}[/]")


def autotimm(*arguments: str | Path) -> None:
    """Show a command line, run it, and stop the demo if it fails."""
    words = [str(argument) for argument in arguments]
    console.print("[bold]$[/]", end=" ")
    console.print(shlex.join(["autotimm", *words]), markup=False, soft_wrap=True)
    # The same as the `autotimm` script, which is not on every PATH.
    status = subprocess.run([sys.executable, "-m", "autotimm", *words], cwd=ROOT, check=False).returncode
    if status != 0:
        sys.exit(f"demo failed: autotimm {words[0]} ended with exit status {status}")


def evaluated(model: Path, report: Path) -> dict[str, float]:
    """The metrics of a checkpoint or an artifact on the validation images."""
    autotimm("evaluate", model, "--data", DATA, "--json", report)
    metrics: dict[str, float] = read_json(report)["metrics"]
    console.print(f"AP {metrics['map']:.4f}, AP50 {metrics['map_50']:.4f}")
    return metrics


def read_json(path: Path) -> Any:
    """The content of a file that a command wrote."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def show_summary(checkpoint: dict[str, float], artifact: dict[str, float], verification: dict[str, Any]) -> None:
    """A table of what was measured."""
    (benchmark,) = read_json(RUN / "benchmark.json")["models"]
    stages = benchmark["stages"]
    table = Table("", "checkpoint", "artifact", box=None)
    for name, key in (("AP", "map"), ("AP50", "map_50")):
        table.add_row(name, f"{checkpoint[key]:.4f}", f"{artifact[key]:.4f}")
    table.add_row("verification", "", f"{verification['status']} on {verification['images']} images")
    for name, allowed in verification["tolerance"].items():
        table.add_row(f"  worst {name}", "", f"{verification['worst'].get(name, 0.0):.2g} (allowed: {allowed:g})")
    table.add_row("latency p50", "", f"{stages['predict']['p50']:.2f} ms for predict() on a decoded image")
    table.add_row("", "", f"{stages['end to end']['p50']:.2f} ms from file to result, {benchmark['backend']}")
    console.print(table)


def check_pictures(folder: Path) -> None:
    """Every image that was predicted on has its picture."""
    wanted, found = len(read_json(RUN / "predictions.json")), len(list((ROOT / folder).glob("*.jpg")))
    if wanted != found or not found:
        sys.exit(f"demo failed: {found} annotated pictures of {wanted} images in {folder}")


def check_accuracy(checkpoint: dict[str, float], artifact: dict[str, float]) -> None:
    """The artifact is as good as the checkpoint, and that is good enough."""
    for key in ("map", "map_50"):
        if abs(checkpoint[key] - artifact[key]) > LARGEST_AP_DIFFERENCE:
            sys.exit(
                f"demo failed: {key} is {checkpoint[key]:.4f} of the checkpoint, {artifact[key]:.4f} of the artifact"
            )
    if artifact["map_50"] < LEAST_AP50:
        sys.exit(f"demo failed: AP50 is {artifact['map_50']:.3f}, but a training that works reaches {LEAST_AP50}")


if __name__ == "__main__":
    main()
