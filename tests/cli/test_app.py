import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotimm.cli import predicting
from autotimm.runtime.errors import ImageError
from autotimm.version import __version__

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Any]


def shell(*command: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=folder, check=False, timeout=120
    )


def test_a_failure_is_one_line_and_status_one(tmp_path: Path) -> None:
    done = shell("-m", "autotimm", "inspect", "no model.onnx", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no model.onnx: no such file\n"


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback(tmp_path: Path, place: str) -> None:
    command = ["inspect", "none.onnx"]
    command.insert(0 if place == "first" else 2, "--debug")
    done = shell("-m", "autotimm", *command, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.rstrip().endswith("ArtifactError: none.onnx: no such file")


def test_a_whole_prediction_in_a_process_of_its_own(detector_artifact: Path, photos: Path, tmp_path: Path) -> None:
    done = shell(
        ROOT / "cli.py", "predict", detector_artifact, photos / "one", photos / "bad" / "cut.jpg", "--save", "out",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "photo.jpg" in done.stdout.replace("\n", "")
    first, second, third = done.stderr.splitlines()
    assert "cut.jpg: cannot be decoded" in first
    assert second == "pictures are in out"
    assert third == "error: 1 of 2 images could not be read"
    assert (tmp_path / "out" / "photo.jpg").is_file()


COMMANDS = ["train", "evaluate", "export", "build", "verify", "predict", "benchmark", "inspect", "backbones", "doctor"]


def test_version_and_help(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--version").out == f"autotimm {__version__}\n"
    text = run("--help").out
    for command in COMMANDS:
        assert f" {command} " in text
        outcome = run(command, "--help")
        assert outcome.status == 0
        assert f"autotimm {command}" in outcome.out
        assert "\N{HORIZONTAL ELLIPSIS}" not in outcome.out  # no option's name is cut off


@pytest.mark.parametrize("arguments", [["fly"], ["predict"], ["predict", "model.onnx"], ["--fast"]])
def test_wrong_usage_is_status_two(run: Run, arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImageError("photo.jpg: is odd"), "error: photo.jpg: is odd"),
        (PermissionError(13, "Permission denied", "a.onnx"), "error: a.onnx: Permission denied"),
        (OSError(28, "No space left on device"), "error: a file could not be read or written: No space left on device"),
        (ModuleNotFoundError("No module named 'timm.data'", name="timm.data"), "pip install 'autotimm-deploy[train]'"),
        (ModuleNotFoundError("No module named 'oops'", name="oops"), "unexpected ModuleNotFoundError: No module named"),
        (ValueError("two\n  lines"), "error: unexpected ValueError: two lines (--debug shows the traceback;"),
        (AssertionError(), "error: unexpected AssertionError:"),
    ],
)
def test_every_failure_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(predicting, "open_predictor", fail)
    assert message in run("predict", "model.onnx", "photo.jpg").complaint


def test_an_interruption_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "open_predictor", interrupt)
    outcome = run("predict", "model.onnx", "photo.jpg")
    assert outcome.status == 130
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(("said", "shown"), [("go on with --resume last.ckpt", "go on with"), ("", "interrupted")])
def test_an_interruption_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch, said: str, shown: str) -> None:
    from autotimm.runtime import environment

    def interrupted() -> None:
        raise KeyboardInterrupt(said)

    monkeypatch.setattr(environment, "diagnose", interrupted)
    outcome = run("doctor")
    assert outcome.status == 130
    assert shown in outcome.err
