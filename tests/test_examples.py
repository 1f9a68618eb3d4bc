"""The demo's data is what it says, its command lines are real, and it does not hide a failure."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

from autotimm.cli.app import app
from autotimm.data.coco import read_coco
from autotimm.training import load_config

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CLI: Any = typer.main.get_command(app)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import an example as Python does when it is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_shapes_are_a_data_set(example: Any, tmp_path: Path) -> None:
    shapes = example("shapes")
    counts = {"train": 12, "val": 6}
    shapes.make_shapes(tmp_path / "one", counts, seed=3)
    shapes.make_shapes(tmp_path / "two", counts, seed=3)
    for split, count in counts.items():
        data = read_coco(tmp_path / "one" / "annotations" / f"{split}.json")
        assert len(data.images) == count
        assert data.class_names == ("circle", "square", "triangle")
        assert {image.size for image in data.images} <= {(180, 240), (240, 180), (200, 200)}
        for image in data.images:
            assert 1 <= len(image.boxes) <= 5
            with Image.open(image.path) as picture:
                assert (picture.height, picture.width) == image.size
        again = tmp_path / "two" / "annotations" / f"{split}.json"
        assert again.read_bytes() == (tmp_path / "one" / "annotations" / f"{split}.json").read_bytes()


def test_boxes_lie_tightly_around_their_shapes(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = example("shapes")
    black = Image.new("RGB", (400, 400))
    monkeypatch.setattr(shapes, "_crop", lambda photograph, height, width, random: black.crop((0, 0, width, height)))
    for seed in range(20):
        picture, objects = shapes._scene([black], np.random.default_rng(seed))
        painted = np.asarray(picture).max(axis=2) > 30
        rows, columns = np.nonzero(painted)
        boxes = np.array([box for _, box in objects])
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        hull = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
        np.testing.assert_allclose(found, hull, atol=1.5)


@pytest.fixture
def demo(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The demo in an empty folder, drawing no data and running no command."""
    example("shapes")
    module = example("demo")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "make_shapes", lambda folder: None)
    return module


def report(path: Path) -> Any:
    """What a command would have written."""
    stages = {name: {"p50": 1.0} for name in ("predict", "end to end")}
    reports = {
        "benchmark.json": {"models": [{"stages": stages, "backend": "engine"}]},
        "manifest.json": {
            "verification": {"status": "passed", "images": 2, "worst": {"box_px": 0.1}, "tolerance": {"box_px": 0.3}}
        },
        "predictions.json": [{}],
    }
    return reports.get(path.name, {"metrics": {"map": 0.6, "map_50": 0.9}})


def test_command_lines_of_the_demo(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(command: list[str], **kwargs: Any) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "autotimm"]
        context = CLI.make_context("autotimm", command[3:])
        name, parsed, rest = CLI.resolve_command(context, command[3:])
        parsed.make_context(name, rest, parent=context)
        ran.append(name)
        if name == "predict":
            (tmp_path / demo.RUN / "pictures").mkdir(parents=True)
            (tmp_path / demo.RUN / "pictures" / "0000.jpg").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demo, "read_json", report)
    demo.main()
    assert set(ran) == {"train", "export", "verify", "evaluate", "predict", "benchmark", "inspect"}


def test_demo_trains_on_what_it_draws(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(EXAMPLES / "demo.yaml")
    assert Path(config.data.arguments["root"]) == demo.DATA
    folder = Path(config.trainer.arguments["default_root_dir"])
    assert folder / "train" / "checkpoints" / "best.ckpt" == demo.CHECKPOINT


def test_demo_fails_with_its_commands(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: SimpleNamespace(returncode=1))
    with pytest.raises(SystemExit, match="demo failed: autotimm train ended with exit status 1"):
        demo.main()


def test_demo_fails_on_a_worse_artifact_and_on_a_bad_training(demo: Any) -> None:
    good = {"map": 0.6, "map_50": 0.9}
    demo.check_accuracy(good, {"map": 0.6015, "map_50": 0.9})
    with pytest.raises(SystemExit, match="map is"):
        demo.check_accuracy(good, {"map": 0.597, "map_50": 0.9})
    with pytest.raises(SystemExit, match="AP50 is"):
        demo.check_accuracy({"map": 0.1, "map_50": 0.2}, {"map": 0.1, "map_50": 0.2})
    (demo.ROOT / "runs").mkdir()
    demo.read_json = lambda path: [{}]
    with pytest.raises(SystemExit, match="pictures"):
        demo.check_pictures(Path("runs"))
