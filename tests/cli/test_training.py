import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotimm.runtime import read_manifest

Run = Callable[..., Any]


@pytest.fixture
def config(color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content = {
        "model": {"class": "ImageClassifier", "backbone": "test_resnet", "num_classes": 3, "pretrained": False},
        "data": {"class": "ImageDataModule", "root": str(color_images), "image_size": 32, "batch_size": 6},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "seed": 0},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_from_a_configuration_to_a_verified_artifact(run: Run, config: Path, tmp_path: Path) -> None:
    trained = run("train", config, "--set", "trainer.name=colors", "--set", "data.num_workers=0")
    best = tmp_path / "runs" / "colors" / "checkpoints" / "best.ckpt"
    assert trained.status == 0
    told = dict(line.split(":", 1) for line in trained.out.splitlines())
    assert told["trained"].strip().startswith("1 epochs")
    assert "val/accuracy" in told["best"]
    assert told["best checkpoint"].strip() == str(best)  # one line, however long
    assert told["log"].strip() == str(best.parents[1] / "metrics.csv")
    (following,) = trained.err.splitlines()
    command = following.removeprefix("next: autotimm ").split()
    assert command == ["export", str(best), "--format", "onnx", "-o", "model.onnx"]
    exported = run(*command)
    assert exported.status == 0
    assert "verification: passed on 12 images, validation images of the checkpoint" in exported.out
    assert read_manifest("model.onnx").class_names == ("blue", "green", "red")
    resumed = run("train", config, "--resume", best, "--set", "trainer.max_epochs=2", "--set", "data.num_workers=0")
    assert (resumed.status, resumed.err.count("\n")) == (0, 1)


def test_an_unknown_key_is_told_with_its_near_match(run: Run, config: Path) -> None:
    assert "did you mean num_classes?" in run("train", config, "--set", "model.num_clases=3").complaint
    assert "did you mean trainer?" in run("train", config, "--set", "trainr.max_epochs=3").complaint
    assert "no backbone 'resnet5O'; did you mean" in run("train", config, "--set", "model.backbone=resnet5O").complaint
    assert not Path("runs").exists()


@pytest.mark.filterwarnings("default::autotimm.runtime.DataWarning")  # as outside tests: shown, not raised
def test_bad_images_are_skipped_by_option_and_named_in_one_line(run: Run, config: Path, color_images: Path) -> None:
    shutil.copytree(color_images, "data")
    Path("data/train/red/0.png").write_text("not an image")
    refused = run("train", config, "--set", "data.root=data")
    assert "training image data/train/red/0.png" in refused.complaint
    skipped = run("train", config, "--set", "data.root=data", "--set", "data.bad_images=skip")
    assert skipped.status == 0
    (warning,) = [line for line in skipped.err.splitlines() if line.startswith("warning: ")]
    assert "data/train/red/0.png" in warning
    assert "(1 so far)" in warning


def test_a_configuration_to_start_from(run: Run) -> None:
    printed = run("train", "--init", "probe")
    assert yaml.safe_load(printed.out)["model"]["class"] == "ImageClassifier"
    assert "did you mean multilabel" in run("train", "--init", "multilable").complaint
    assert run("train", "config.yaml", "--init", "probe").status == 2


def test_mistakes(run: Run, config: Path, tmp_path: Path) -> None:
    assert run("train").status == 2
    assert "none.yaml" in run("train", "none.yaml").complaint
    assert "num_classes=4" in run("train", config, "--set", "model.num_classes=4").complaint
    assert "nowhere" in run("train", config, "--set", "data.root=nowhere").complaint
    assert "no such checkpoint" in run("train", config, "--resume", "none.ckpt").complaint
    config.write_text("model: [")
    assert "config.yaml" in run("train", config).complaint
    assert not Path("runs").exists()
