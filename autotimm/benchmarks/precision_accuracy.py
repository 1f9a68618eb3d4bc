"""What fp16 and int8 cost on annotated data: ``python -m autotimm.benchmarks.precision_accuracy MODEL --data DIR``.

Calibration on the images of ``--calibration``; or, for COCO data with one split only, on every other image of it, and
the figures are of the rest. Needs the extra ``export``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from autotimm.export import CalibrationSettings, export_to_onnx
from autotimm.models import load_checkpoint
from autotimm.runtime.manifest import Manifest, Precision, Target


def in_halves(data: Path, split: str, folder: Path) -> None:
    """Write a COCO set of every second image as split ``half``, and the others into a folder ``calibration``."""
    content = json.loads((data / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
    places = {"half": folder / "images" / "half", "calibration": folder / "calibration"}
    for place in (*places.values(), folder / "annotations"):
        place.mkdir(parents=True)
    images = sorted(content["images"], key=lambda image: str(image["file_name"]))
    for index, image in enumerate(images):
        shutil.copy(data / "images" / split / image["file_name"], places["calibration" if index % 2 == 0 else "half"])
    kept = {image["id"] for image in images[1::2]}
    content["images"] = images[1::2]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    (folder / "annotations" / "half.json").write_text(json.dumps(content), encoding="utf-8")


def measure(
    checkpoint: Path, data: Path, split: str, settings: CalibrationSettings, folder: Path
) -> list[tuple[str, Manifest, float]]:
    """The manifest and the size in MB of each precision."""
    model = load_checkpoint(checkpoint)
    choices: list[tuple[Precision, Target]] = [("fp16", "onnxruntime")]
    choices += [("int8", target) for target in get_args(Target)]
    rows = []
    for precision, target in choices:
        path = folder / f"{precision}-{target}.onnx"
        manifest = export_to_onnx(
            model,
            path,
            precision=precision,
            target=target,
            calibration=settings if precision == "int8" else None,
            data=data,
            split=split,
            verify=False,
        )
        rows.append(
            (f"{precision}, {target}" if precision == "int8" else precision, manifest, path.stat().st_size / 1e6)
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What fp16 and int8 cost on annotated data.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="annotated data, as autotimm evaluate takes them")
    parser.add_argument("--split", default="val", help="which part of the data (default val)")
    parser.add_argument("--calibration", type=Path, help="images; COCO data are taken in halves if absent")
    parser.add_argument("--images", type=int, default=128, help="to calibrate on, at most (default 128)")
    parser.add_argument("--method", default="percentile", help="percentile, entropy or minmax")
    parser.add_argument("--kept", action="store_true", help="name the layers that stay in fp32")
    arguments = parser.parse_args()
    table = Table("precision", "figure", "fp32", "value", "points lost", "images", "layers in int8", "MB", box=None)
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as name:
        data, split, calibration = arguments.data, arguments.split, arguments.calibration
        if calibration is None:
            in_halves(data, split, Path(name))
            data, split, calibration = Path(name), "half", Path(name) / "calibration"
        settings = CalibrationSettings(calibration, arguments.images, arguments.method)
        for what, manifest, megabytes in measure(arguments.checkpoint, data, split, settings, Path(name)):
            accuracy, record = manifest.accuracy, manifest.quantization
            assert accuracy is not None  # data was given
            layers = f"{record.layers - len(record.kept)} of {record.layers}" if record else ""
            figures = (f"{accuracy.reference:.4f}", f"{accuracy.value:.4f}", f"{100 * accuracy.drop:.2f}")
            table.add_row(what, accuracy.figure, *figures, str(accuracy.images), layers, f"{megabytes:.1f}")
            if record and arguments.kept:
                console.print(f"{what}, in fp32: {', '.join(record.kept)}", soft_wrap=True)
    console.print(table)


if __name__ == "__main__":
    main()
