import importlib
import inspect
import json
import shutil
from pathlib import Path

import pytest

from autotimm.evaluation import evaluate
from autotimm.models import YOLOXDetector, load_checkpoint
from autotimm.runtime import load
from autotimm.runtime.errors import DataError


def test_a_checkpoint_and_its_artifact_measure_the_same(
    trained_checkpoint: Path, classifier_artifact: Path, color_images: Path
) -> None:
    values = evaluate(trained_checkpoint, color_images)
    assert set(values) == {"accuracy", "macro_accuracy"}
    assert evaluate(classifier_artifact, color_images) == pytest.approx(values, abs=1e-6)
    with load(classifier_artifact) as predictor:
        names = {path: predictor.predict(path).names[0] for path in color_images.glob("val/*/*.png")}
    by_hand = sum(path.parent.name == name for path, name in names.items()) / len(names)
    assert values["accuracy"] == pytest.approx(by_hand)
    assert 0 < by_hand < 1  # else the comparison says little


def test_average_precision_of_what_the_detector_finds_is_one(
    detector: YOLOXDetector, detector_artifact: Path, boxed_images: Path
) -> None:
    """Though the categories of the data are in another order than the classes of the model."""
    values = evaluate(detector, boxed_images)
    assert values["map"] == pytest.approx(1.0, abs=0.02)
    assert values["map_50"] == pytest.approx(1.0, abs=0.02)
    assert evaluate(detector_artifact, boxed_images) == pytest.approx(values, abs=1e-3)


def test_the_class_order_of_the_model_is_of_no_account(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    values = evaluate(trained_checkpoint, color_images)
    model = load_checkpoint(trained_checkpoint)
    order = [2, 0, 1]
    head = model.network.get_classifier()
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    model.class_names = tuple(model.class_names[index] for index in order)
    assert evaluate(model.save(tmp_path / "other.ckpt"), color_images) == pytest.approx(values)


def test_progress_is_told_of_every_image(trained_checkpoint: Path, color_images: Path) -> None:
    seen: list[Path] = []

    def watch(images: list[Path]) -> list[Path]:
        seen.extend(images)
        return images

    evaluate(load_checkpoint(trained_checkpoint), color_images, progress=watch)
    assert len(seen) == 12


def test_a_bad_image_is_an_error_since_the_figure_would_be_of_other_data(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(color_images / "val", tmp_path / "val")
    (tmp_path / "val" / "red" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png: is empty"):
        evaluate(trained_checkpoint, tmp_path)


def test_annotations_of_another_size_are_refused_as_in_training(
    detector: YOLOXDetector, boxed_images: Path, tmp_path: Path
) -> None:
    shutil.copytree(boxed_images, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "annotations" / "val.json"
    content = json.loads(file.read_text())
    content["images"][1].update(width=240, height=180)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"1\.png: is 120 x 90 when upright .* annotations are for 240 x 180"):
        evaluate(detector, tmp_path)


def test_the_ending_of_an_artifact_may_be_in_capitals(
    classifier_artifact: Path, color_images: Path, tmp_path: Path
) -> None:
    shutil.copyfile(classifier_artifact, tmp_path / "COLORS.ONNX")
    assert evaluate(tmp_path / "COLORS.ONNX", color_images) == evaluate(classifier_artifact, color_images)


def test_the_module_is_not_hidden_by_the_function() -> None:
    assert inspect.ismodule(importlib.import_module("autotimm.evaluation").run)
    assert callable(evaluate)
