import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autotimm.models import load_checkpoint
from autotimm.runtime import load, read_manifest

Run = Callable[..., Any]


def test_export_beside_the_user(
    run: Run, trained_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without -o the artifact gets the checkpoint's name, in the folder the user is in."""
    monkeypatch.chdir(tmp_path)
    outcome = run("export", trained_checkpoint, "--format", "onnx", "--batch", "dynamic", "--size", 64, 48)
    assert outcome.status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["best.onnx"]
    with load("best.onnx") as predictor:
        assert predictor.fixed_batch is None
        assert predictor.manifest.preprocess.size == (64, 48)
        assert predictor.manifest.verification.status == "passed"
    first, second, third = outcome.out.splitlines()
    assert first.startswith("best.onnx  test_resnet, 3 classes, 64x48, batch dynamic, fp32, opset 18, ")
    assert second.startswith("verification: passed on 12 images, validation images of the checkpoint, against Image")
    assert "worst differences: probability" in third
    assert outcome.err == "next: autotimm predict best.onnx PHOTO.jpg --save predictions\n"


def test_torchscript(
    run: Run, trained_checkpoint: Path, color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through every command that takes an artifact."""
    monkeypatch.chdir(tmp_path)
    outcome = run("export", trained_checkpoint, "--format", "torchscript", "--batch", "dynamic")
    assert outcome.status == 0, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
    assert outcome.out.startswith("best.pt  test_resnet, 3 classes, 32x32, batch dynamic, fp32, torchscript, ")
    assert "verification: passed on 12 images" in outcome.out
    image = next((color_images / "val" / "red").iterdir())
    assert json.loads(run("predict", "best.pt", image, "--json", "-").out)[0]["predictions"][0]["name"]
    shown = run("inspect", "best.pt").out
    assert "torchscript, fp32" in shown
    assert "portable" not in shown
    of_checkpoint, of_artifact = (
        json.loads(run("evaluate", model, "--data", color_images, "--json", "-").out)["metrics"]
        for model in (trained_checkpoint, "best.pt")
    )
    assert of_artifact == pytest.approx(of_checkpoint)
    measured = json.loads(run("benchmark", "best.pt", "--runs", 1, "--threads", 1, "--json", "-").out)
    assert measured["models"][0]["backend"].startswith("torchscript on torch ")
    again = run("verify", "best.pt", "--against", trained_checkpoint)
    assert again.out.startswith("verification: passed on 12 images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nms", "operator"], "--nms operator is ONNX Runtime's own: a TorchScript artifact has --nms tensor"),
        (["--target", "onnxruntime"], "--target onnxruntime is for ONNX: a TorchScript artifact is always portable"),
        (["-o", "model.onnx"], "the name of a TorchScript artifact ends in .pt; for this name give --format onnx"),
        (["-o", "model.plan"], "the name of a TorchScript artifact ends in .pt; for this name give --format trt"),
        (["-o", "{checkpoint}"], "ckpt.pt: would be written over the checkpoint; name another file with -o"),
    ],
)
def test_what_torchscript_cannot_be(
    run: Run,
    trained_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "ckpt.pt"
    shutil.copy(trained_checkpoint, checkpoint)
    given = [argument.format(checkpoint=checkpoint) for argument in arguments]
    assert message in run("export", checkpoint, "--format", "torchscript", *given).complaint
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch", "0"],
        ["--batch", "many"],
        ["--batch", "-1"],
        ["--format", "coreml"],
        ["--nms", "soft"],
        ["--size", "64"],
        ["--max-detections", "0"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage(run: Run, trained_checkpoint: Path, tmp_path: Path, arguments: list[str]) -> None:
    outcome = run("export", trained_checkpoint, "-o", tmp_path / "model.onnx", *arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert arguments[0] in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(
    run: Run, trained_checkpoint: Path, detector_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "none.ckpt: no such file" in run("export", "none.ckpt").complaint
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    assert "text.ckpt: not a" in run("export", "text.ckpt").complaint
    assert "ends in .onnx" in run("export", trained_checkpoint, "-o", "model.engine").complaint
    assert "options of detectors" in run("export", trained_checkpoint, "--max-detections", 5).complaint
    assert "multiples of 32" in run("export", detector_checkpoint, "--size", 100, 100).complaint
    images = run("export", trained_checkpoint, "--verify-images", "nowhere")
    assert "nowhere: is not a folder" in images.complaint
    (tmp_path / "file").touch()
    assert "file is not a folder" in run("export", trained_checkpoint, "-o", "file/model.onnx").complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text.ckpt"]


def test_verify(run: Run, detector_artifact: Path, detector_checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    shutil.copy(detector_artifact, artifact)
    outcome = run("verify", artifact, "--against", detector_checkpoint, "--images", photos / "one")
    assert outcome.status == 0
    assert outcome.out.startswith("verification: passed on 1 images, 1 of 1 images in one, against YOLOXDetector on")
    assert outcome.err == ""
    record = read_manifest(artifact).verification
    assert (record.status, record.images) == ("passed", 1)
    assert record.compared["detections"] > 10


def test_verify_fails(run: Run, detector_artifact: Path, detector_checkpoint: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    shutil.copy(detector_artifact, artifact)
    model = load_checkpoint(detector_checkpoint)
    with torch.no_grad():
        model.network.head.reg_preds[0].bias += 0.2
    other = model.save(tmp_path / "other.ckpt")
    outcome = run("verify", artifact, "--against", other)
    assert outcome.out.startswith("verification: failed on 6 images, generated")
    assert "does not give the answers of" in outcome.complaint
    assert "exceeds 0.3" in outcome.complaint
    assert read_manifest(artifact).verification.status == "failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "other.ckpt"]


def test_verify_against_another_model(
    run: Run, detector_artifact: Path, classifier_artifact: Path, trained_checkpoint: Path, tmp_path: Path
) -> None:
    for against in (trained_checkpoint, classifier_artifact):
        outcome = run("verify", detector_artifact, "--against", against)
        assert "the artifact is a detector, the model a classifier" in outcome.complaint
    assert "no such file" in run("verify", tmp_path / "none.onnx", "--against", trained_checkpoint).complaint
    assert "no such file" in run("verify", detector_artifact, "--against", tmp_path / "none.onnx").complaint
    assert read_manifest(detector_artifact).verification.status == "passed"


def test_export_to_int8_by_command(run: Run, trained_checkpoint: Path, color_images: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.onnx"
    options = ("--calibration", color_images / "train", "--calibration-images", 4, "--calibration-method", "minmax")
    outcome = run("export", trained_checkpoint, "-o", path, "--precision", "int8", *options, "--target", "portable")
    assert outcome.status == 0, outcome.err
    assert ", int8, opset 17, " in outcome.out.splitlines()[0]
    assert "warning: the ranges of int8 are of 4 images only: give some hundred" in outcome.err
    said = outcome.out.splitlines()[1]
    assert "layers, calibrated on 4 of 18 images: train, by minmax; answers off by " in said
    shown = " ".join(run("inspect", path).out.split())
    for said in ("calibration minmax, 4 of 18 images: train, seed 0, images ", "kept in fp32 ", "int8 error 0."):
        assert said in shown
    refused = run("export", trained_checkpoint, "-o", path, "--calibration", color_images)
    assert refused.status == 1
    assert "calibration is for int8, and the precision is fp32" in refused.err


def test_a_repository_of_triton(run: Run, classifier_artifact: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    outcome = run("export", classifier_artifact, "--format", "triton-repo", "-o", models, "--model-name", "m")
    assert outcome.status == 0, outcome.err
    assert f"{models}/m/1/model.onnx" in outcome.out.replace("\n", "")
    assert "autotimm serve" in outcome.err
    for arguments, complaint in (
        (["--format", "triton-repo"], "name the model repository with -o"),
        (["--format", "triton-repo", "-o", models, "--precision", "fp16"], "--precision: colors.onnx is laid out"),
        (["--format", "triton-repo", "-o", models, "--no-verify"], "--no-verify: colors.onnx"),
        (["-o", tmp_path / "x.onnx", "--force"], "only with --format triton-repo"),
    ):
        refused = run("export", classifier_artifact, *arguments)
        assert refused.status == 2
        assert complaint in " ".join(refused.err.replace("│", " ").split())
    refused = run("export", trained_checkpoint, "--format", "triton-repo", "-o", models)
    assert refused.status == 1
    assert "best.ckpt --format onnx --batch dynamic" in refused.complaint
    assert [path.name for path in models.iterdir()] == ["m"]
