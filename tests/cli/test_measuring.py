import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_json_and_table(
    run: Run, classifier_artifact: Path, detector_artifact: Path, photos: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    models = [classifier_artifact, detector_artifact]
    outcome = run("benchmark", *models, "--images", photos / "one", "--runs", 3, "--json", report)
    assert (outcome.status, outcome.err) == (0, "")
    content = json.loads(report.read_text())
    assert [model["model"] for model in content["models"]] == [str(path) for path in models]
    assert content["images"] == str(photos / "one")
    assert "processor" in content["environment"]
    for model in content["models"]:
        assert {timing["runs"] for timing in model["stages"].values()} == {3}
        assert f"{model['model']} on {model['backend']}\n" in outcome.out
    assert outcome.out.count("bare session") == 4  # a row and a sentence for each
    assert outcome.out.count("images/s") == 2


def test_json_on_standard_output_is_nothing_else(run: Run, classifier_artifact: Path) -> None:
    outcome = run("benchmark", classifier_artifact, "--runs", 1, "--threads", 1, "--json", "-")
    content = json.loads(outcome.out)
    assert content["images"] == "generated"
    assert content["models"][0]["backend"].endswith("1 thread")


def test_mistakes(run: Run, classifier_artifact: Path, photos: Path, tmp_path: Path) -> None:
    assert "nowhere: is not a folder" in run("benchmark", classifier_artifact, "--images", "nowhere").complaint
    assert "cannot be decoded" in run("benchmark", classifier_artifact, "--images", photos / "bad").complaint
    assert "no such file" in run("benchmark", tmp_path / "none.onnx").complaint
    assert run("benchmark", classifier_artifact, "--runs", 0).status == 2
    assert run("benchmark").status == 2
    assert "no provider 'quantum'" in run("benchmark", classifier_artifact, "--provider", "quantum").complaint


def test_a_fixed_batch_is_named(run: Run, trained_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "two.onnx"
    assert run("export", trained_checkpoint, "--batch", 2, "--no-verify", "-o", artifact).status == 0
    outcome = run("benchmark", artifact, "--images", photos / "one", "--runs", 2)
    assert "milliseconds for 2 images" in outcome.out
    assert "images/s, in batches of 2" in outcome.out
