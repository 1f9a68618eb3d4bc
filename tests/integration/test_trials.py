"""Training on the reference data until it is worth something: minutes each, run by `make trial`."""

import csv
from pathlib import Path

import pytest

from autotimm.evaluation import evaluate
from autotimm.export import export_to_onnx
from autotimm.training import load_config, run_training
from autotimm.training.templates import read_template

pytestmark = pytest.mark.slow


def train(template: str, data: Path, weights: Path, folder: Path, *more: str) -> Path:
    config = folder / f"{template}.yaml"
    config.write_text(read_template(template))
    overrides = [f"data.root={data}", f"weights={weights}", f"trainer.default_root_dir={folder}", *more]
    return run_training(load_config(config, overrides)).best_checkpoint


def curve(checkpoint: Path, metric: str) -> list[float]:
    with (checkpoint.parents[1] / "metrics.csv").open() as file:
        return [float(row[metric]) for row in csv.DictReader(file) if row[metric]]


def test_linear_probe_on_trashnet(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "cls" / "trashnet6"
    weights = shared / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    checkpoint = train("probe", data, weights, tmp_path)
    manifest = export_to_onnx(checkpoint, tmp_path / "probe.onnx")
    assert manifest.verification.status == "passed"
    assert manifest.verification.image_source == "validation images of the checkpoint"
    accuracy = evaluate(tmp_path / "probe.onnx", data)["accuracy"]
    assert accuracy >= 0.75
    assert accuracy == pytest.approx(evaluate(checkpoint, data)["accuracy"], abs=0.005)


def test_yolox_nano_fine_tuned_on_blood_cells(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "det" / "bccd"
    checkpoint = train("detection", data, shared / "weights" / "yolox_nano_coco.pth", tmp_path)
    epochs = curve(checkpoint, "val/map_50")
    print("AP50 by epoch:", [round(value, 3) for value in epochs])  # noqa: T201
    assert epochs[0] < epochs[1] < max(epochs)
    manifest = export_to_onnx(checkpoint, tmp_path / "cells.onnx")
    assert manifest.verification.status == "passed"
    metrics = evaluate(tmp_path / "cells.onnx", data)
    assert metrics["map_50"] >= 0.70
    assert metrics["map"] == pytest.approx(evaluate(checkpoint, data)["map"], abs=0.002)
