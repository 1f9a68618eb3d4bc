"""The command line in this process, as a shell sees it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from autotimm.cli import main
from autotimm.runtime.pictures import generate

if TYPE_CHECKING:
    from autotimm.runtime import Manifest, TensorSpec


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a command that failed and said nothing else."""
        assert self.status == 1
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``autotimm`` with these arguments."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["autotimm", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders with a good picture of one name, and one folder of bad files."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(("one", "two")):
        (folder / name).mkdir(parents=True)
        Image.fromarray(generate(60 + 20 * seed, 100, seed)).save(folder / name / "photo.jpg")
    bad = folder / "bad"
    bad.mkdir()
    data = (folder / "one" / "photo.jpg").read_bytes()
    (bad / "cut.jpg").write_bytes(data[: len(data) // 2])
    (bad / "empty.png").touch()
    (bad / "text.jpg").write_text("not a picture")
    return folder


def _known_answers(nodes: list[Any], constants: dict[str, np.ndarray], manifest: Manifest, path: Path) -> Path:
    """An artifact made of a few operators, for one image at a time."""
    import onnx
    from onnx import helper, numpy_helper

    def value(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape
        )

    tables = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs, outputs = ([value(spec) for spec in specs] for specs in (manifest.inputs, manifest.outputs))
    graph = helper.make_graph(nodes, "known answers", inputs, outputs, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"autotimm": manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def classes_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Semantic segmentation by the red channel: ``light`` from 128 on, else ``background``; 32 x 48, stretched."""
    from onnx import helper

    from autotimm.runtime import Manifest, Preprocess, TensorSpec

    manifest = Manifest(
        task="semantic_segmentation",
        architecture="red",
        class_names=("background", "light"),
        preprocess=Preprocess((32, 48)),
        inputs=(TensorSpec("images", "uint8", (1, 32, 48, 3)),),
        outputs=(TensorSpec("mask", "uint8", (1, 32, 48)),),
        palette=((1, 2, 3), (250, 128, 0)),
    )
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["channel"], axis=3),
        helper.make_node("Div", ["channel", "half"], ["mask"]),
    ]
    constants = {"red": np.array(0, np.int64), "half": np.array(128, np.uint8)}
    return _known_answers(nodes, constants, manifest, tmp_path_factory.mktemp("classes") / "red.onnx")


@pytest.fixture(scope="session")
def objects_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instance segmentation that finds two on anything: 16 x 16 in the middle of 32 x 48, of which the left half is a
    dog; and all of the image, a cat.
    """
    from onnx import helper

    from autotimm.runtime import Manifest, Preprocess, TensorSpec

    masks = np.zeros((1, 3, 4, 4), np.float32)
    masks[:, 0, :, :2] = masks[:, 1] = 0.9
    answers = {
        "num_detections": np.array([[2]], np.int32),
        "boxes": np.array([[[16, 8, 32, 24], [0, 0, 48, 32], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0.2, 0]], np.float32),
        "labels": np.array([[1, 0, -1]], np.int32),
        "masks": masks,
    }
    manifest = Manifest(
        task="instance_segmentation",
        architecture="two",
        class_names=("cat", "dog"),
        preprocess=Preprocess((32, 48), fit="letterbox", align="top_left"),
        inputs=(TensorSpec("images", "uint8", (1, 32, 48, 3)),),
        outputs=tuple(TensorSpec(name, str(value.dtype), value.shape) for name, value in answers.items()),
        thresholds={"score": 0.1, "mask": 0.5},
    )
    nodes = [helper.make_node("Identity", [f"{name}_known"], [name]) for name in answers]
    constants = {f"{name}_known": value for name, value in answers.items()}
    return _known_answers(nodes, constants, manifest, tmp_path_factory.mktemp("objects") / "two.onnx")
