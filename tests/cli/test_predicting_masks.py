import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from autotimm.runtime import Instances, SemanticMask, load, load_image, read_manifest, rle

Run = Callable[..., Any]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """96 x 64, the right quarter white."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 72:] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "photo.png")
    return tmp_path / "in" / "photo.png"


def test_fractions_of_classes(run: Run, classes_artifact: Path, photo: Path) -> None:
    (row,) = json.loads(run("predict", classes_artifact, photo, "--json", "-").out)
    assert list(row) == ["image", "width", "height", "task", "predictions"]
    assert (row["width"], row["height"], row["task"]) == (96, 64, "semantic_segmentation")
    assert [(one["label"], one["name"]) for one in row["predictions"]] == [(0, "background"), (1, "light")]
    assert [one["fraction"] for one in row["predictions"]] == pytest.approx([0.75, 0.25], abs=0.01)
    assert "background 75.0%, light 25.0%" in " ".join(run("predict", classes_artifact, photo).out.split())


def test_class_indices_as_files(run: Run, classes_artifact: Path, photo: Path, tmp_path: Path) -> None:
    outcome = run("predict", classes_artifact, photo, "--save", tmp_path / "drawn", "--save-masks", tmp_path / "masks")
    assert outcome.status == 0
    assert "drawn and" in " ".join(outcome.err.split())
    assert load_image(tmp_path / "drawn" / "photo.jpg").shape == (64, 96, 3)
    with load(classes_artifact) as predictor:
        result = predictor.predict(photo)
    assert isinstance(result, SemanticMask)
    with Image.open(tmp_path / "masks" / "photo.png") as mask:
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), result.mask)
        colored = np.asarray(mask.convert("RGB"))
    assert (colored[0, 95].tolist(), colored[0, 0].tolist()) == ([250, 128, 0], [1, 2, 3])  # the artifact's palette


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools' own arrays
def test_masks_of_objects(run: Run, objects_artifact: Path, photo: Path, tmp_path: Path) -> None:
    outcome = run("predict", objects_artifact, photo, "--json", tmp_path / "out.json", "--save", tmp_path / "drawn")
    assert outcome.status == 0
    assert "dog 0.90" in outcome.out
    assert "cat" not in outcome.out  # below --min-score
    (row,) = json.loads((tmp_path / "out.json").read_text())
    dog, cat = row["predictions"]
    assert list(dog) == ["label", "name", "score", "box", "mask"]
    assert (dog["name"], dog["box"], dog["mask"]["size"]) == ("dog", [32.0, 16.0, 64.0, 48.0], [64, 96])
    assert (coco_mask.decode(cat["mask"]) > 0)[8:-8, 8:-8].all()
    left = np.zeros((64, 96), bool)
    left[16:48, 32:48] = True
    found = coco_mask.decode(dog["mask"]) > 0
    assert (found & left).sum() / (found | left).sum() > 0.85  # four cells are coarse
    assert load_image(tmp_path / "drawn" / "photo.jpg").shape == (64, 96, 3)


def test_masks_are_saved_of_classes_only(run: Run, objects_artifact: Path, photo: Path, tmp_path: Path) -> None:
    complaint = run("predict", objects_artifact, photo, "--save-masks", tmp_path / "masks").complaint
    assert "two.onnx is for instance segmentation; --json writes the masks of objects" in complaint
    assert "--save-masks" in run("predict", objects_artifact, photo, "--save-masks", photo.parent).complaint
    assert not (tmp_path / "masks").exists()


def test_inspect_and_benchmark(run: Run, classes_artifact: Path, objects_artifact: Path, photo: Path) -> None:
    assert "mask uint8[1, 32, 48]" in run("inspect", classes_artifact).out
    assert "masks float32[1, 3, 4, 4]" in run("inspect", objects_artifact).out
    arguments = ("--images", photo.parent, "--runs", 2, "--json", "-")
    report = json.loads(run("benchmark", classes_artifact, objects_artifact, *arguments).out)
    assert [Path(model["model"]) for model in report["models"]] == [classes_artifact, objects_artifact]
    assert all(model["stages"]["postprocess"]["p50"] > 0 for model in report["models"])


def test_streams(classes_artifact: Path, objects_artifact: Path, photo: Path) -> None:
    bad = photo.with_name("absent.png")
    for artifact, kind in ((classes_artifact, SemanticMask), (objects_artifact, Instances)):
        with load(artifact) as predictor:
            first, missing, second = predictor.stream([photo, bad, np.zeros((20, 400, 3), np.uint8)])
        assert isinstance(first, kind)
        assert isinstance(second, kind)
        assert isinstance(missing, Exception)
        assert (first.image_size, second.image_size) == ((64, 96), (20, 400))
    assert read_manifest(classes_artifact).palette == ((1, 2, 3), (250, 128, 0))


def test_python_of_the_results_page_runs(
    classes_artifact: Path, objects_artifact: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    shutil.copy(classes_artifact, tmp_path / "pets.onnx")
    shutil.copy(objects_artifact, tmp_path / "nuclei.onnx")
    Image.open(photo).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for code, kind in ((first, SemanticMask), (second, Instances)):
        names: dict[str, Any] = {}
        exec(compile(code, "docs/results.md", "exec"), names)
        assert isinstance(names["result"], kind)
    assert (tmp_path / "mask.png").is_file()
    for example in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        for prediction in json.loads(example)[0]["predictions"]:
            assert "mask" not in prediction or rle.decode(prediction["mask"]).any()
