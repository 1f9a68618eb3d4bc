import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def metrics(run: Run, model: Path, data: Path, *further: object) -> dict[str, float]:
    outcome = run("evaluate", model, "--data", data, "--json", "-", *further)
    assert (outcome.status, outcome.err) == (0, "")
    content = json.loads(outcome.out)
    assert (content["model"], content["data"]) == (str(model), str(data))
    return content["metrics"]


def test_classification(run: Run, trained_checkpoint: Path, classifier_artifact: Path, color_images: Path) -> None:
    values = metrics(run, classifier_artifact, color_images)
    assert metrics(run, trained_checkpoint, color_images) == pytest.approx(values, abs=1e-6)
    assert set(values) == {"accuracy", "macro_accuracy"}
    assert values["accuracy"] * 12 == pytest.approx(round(values["accuracy"] * 12))
    assert metrics(run, classifier_artifact, color_images, "--split", "train")["accuracy"] > 1 / 3


def test_detection(run: Run, detector_checkpoint: Path, detector_artifact: Path, boxed_images: Path) -> None:
    values = metrics(run, detector_artifact, boxed_images)
    assert values["map"] == pytest.approx(1.0, abs=0.02)
    checkpoint = metrics(
        run, detector_checkpoint, boxed_images, "--annotations", boxed_images / "annotations" / "val.json"
    )
    assert checkpoint == pytest.approx(values, abs=1e-3)
    table = run("evaluate", detector_artifact, "--data", boxed_images).out
    assert f"{values['map']:.4f}" in table
    assert "nothing annotated" in table  # the pictures have no large object


def test_mistakes(
    run: Run, classifier_artifact: Path, detector_artifact: Path, color_images: Path, boxed_images: Path, tmp_path: Path
) -> None:
    assert run("evaluate", classifier_artifact).status == 2
    assert "no such folder" in run("evaluate", classifier_artifact, "--data", tmp_path / "none").complaint
    foreign = tmp_path / "val"
    for name in ("red", "violet"):
        (foreign / name).mkdir(parents=True)
        (foreign / name / "0.png").write_bytes((color_images / "val" / "red" / "0.png").read_bytes())
    unknown = run("evaluate", classifier_artifact, "--data", tmp_path).complaint
    assert "does not know: violet (1 of 2); the model knows blue, green, red" in unknown
    absent = run("evaluate", classifier_artifact, "--data", color_images, "--split", "test")
    assert "no folder 'test'" in absent.complaint
    assert "no annotations" in run("evaluate", detector_artifact, "--data", color_images).complaint
