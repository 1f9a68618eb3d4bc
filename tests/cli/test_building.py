import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_builder import Build, tensorrt_that_builds, written

from autotimm.runtime import read_manifest

Run = Callable[..., Any]


@pytest.fixture
def here(classifier_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a portable artifact, where no TensorRT is installed; the user is in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    shutil.copyfile(classifier_artifact, tmp_path / "colors.portable.onnx")
    return tmp_path


@pytest.fixture
def build(here: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    state = Build(says=["[W] something odd"])
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_that_builds("10.3.0", state))
    return state


def test_build(run: Run, here: Path, build: Build) -> None:
    outcome = run("build", "colors.portable.onnx", "--workspace", 64)
    assert outcome.status == 0
    assert written(here) == {"colors.portable.onnx", "colors.engine", "colors.engine.json"}
    first, *rest = outcome.out.splitlines()
    assert first.startswith("colors.engine  test_resnet, 3 classes, 32x32, fp32, ")
    assert "built by tensorrt 10.3.0 in" in first
    assert "  options: workspace 64" in rest
    assert any(line.startswith("  layers: ") and "float32; read from the engine" in line for line in rest)
    assert "verification: not run" in rest
    assert "autotimm verify colors.engine --against colors.portable.onnx" in rest[-1]
    assert outcome.err.splitlines() == [
        "warning: [W] something odd",
        "next, on the device: autotimm predict colors.engine PHOTO.jpg --save predictions",
    ]
    shown = run("inspect", "colors.engine").out
    assert "tensorrt 10.3.0, " in shown
    assert "workspace 64" in shown


def test_export_to_an_engine_from_an_artifact(run: Run, here: Path, build: Build) -> None:
    outcome = run("export", "colors.portable.onnx", "--format", "trt", "--optimization-level", 1, "-o", "a.plan")
    assert outcome.status == 0
    manifest = read_manifest("a.plan")
    assert manifest.engine is not None
    assert manifest.engine.options == {"optimization_level": 1}


def test_without_tensorrt(run: Run, here: Path) -> None:
    complaint = run("build", "colors.portable.onnx").complaint
    assert "TensorRT is not installed" in complaint
    assert "JetPack" in complaint
    assert "pip install 'autotimm-deploy[trt-rtx]'" in complaint
    assert written(here) == {"colors.portable.onnx"}


def test_a_kit(run: Run, here: Path) -> None:
    outcome = run("export", "colors.portable.onnx", "--format", "trt", "--kit", "kit", "--workspace", 64)
    assert outcome.status == 0
    assert outcome.err == "next: copy kit to the device and run there: sh kit/build.sh\n"
    assert outcome.out.split()[0] == "kit/colors.onnx"
    assert " 0.0 " not in outcome.out  # small files have a size too
    assert "--workspace 64" in (here / "kit" / "build.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--workspace", "64"], "--workspace: only with --format trt"),
        (["--kit", "kit"], "--kit: only with --format trt"),
        (["--format", "trt", "--size", "64", "64"], "--size: the graph of colors.portable.onnx is done"),
        (["--format", "trt", "--nms", "tensor"], "--nms: the graph of colors.portable.onnx is done"),
        (["--format", "trt", "--kit", "kit", "--flavour", "tensorrt"], "--flavour: of the device"),
        (["--format", "trt", "--profile-batch", "1", "2"], "profile-batch"),
    ],
)
def test_wrong_usage(run: Run, here: Path, arguments: list[str], complaint: str) -> None:
    outcome = run("export", "colors.portable.onnx", *arguments)
    assert outcome.status == 2
    assert complaint in " ".join(outcome.err.replace("│", " ").split())
    assert written(here) == {"colors.portable.onnx"}


@pytest.mark.usefixtures("interruptible")
def test_an_interruption(run: Run, here: Path, build: Build) -> None:
    import _thread
    import time

    def once() -> None:
        build.works = lambda: time.sleep(0.3)
        _thread.interrupt_main()
        time.sleep(0.3)

    build.works = once
    outcome = run("build", "colors.portable.onnx")
    assert outcome.status == 130
    assert "error: the build was interrupted; nothing was written" in outcome.err
    assert written(here) == {"colors.portable.onnx"}
