import json
from pathlib import Path

import pytest

from autotimm.evaluation import read_evaluation_set
from autotimm.runtime.errors import ConfigError, DataError

NAMES = ("red", "violet", "green", "blue")


@pytest.mark.parametrize(("split", "count"), [("val", 12), ("train", 18)])
def test_a_split_is_read_whole_with_classes_found_by_name(color_images: Path, split: str, count: int) -> None:
    samples = read_evaluation_set("classification", color_images, NAMES, split=split)
    assert len(samples) == len(samples.truths) == count
    folders = [color_images / split / NAMES[truth] for truth in samples.truths]
    assert [path.parent for path in samples.paths] == folders


def test_a_folder_of_classes_is_evaluated_whole_and_only_when_that_is_asked_for(color_images: Path) -> None:
    samples = read_evaluation_set("classification", color_images / "train", NAMES, split="all")
    assert sorted(samples.paths) == sorted((color_images / "train").glob("*/*.png"))
    assert [path.parent.name for path in samples.paths] == [NAMES[truth] for truth in samples.truths]
    with pytest.raises(DataError, match=r"give a folder with train/ and val/, or evaluate all 18 images with --split"):
        read_evaluation_set("classification", color_images / "train", NAMES)
    with pytest.raises(DataError, match="no folder 'all'"):
        read_evaluation_set("classification", color_images, NAMES, split="all")


def test_a_split_that_is_not_there_is_not_replaced_by_another(color_images: Path) -> None:
    with pytest.raises(DataError, match="no folder 'test'"):
        read_evaluation_set("classification", color_images, NAMES, split="test")


def test_classes_that_the_model_does_not_know(color_images: Path, boxed_images: Path) -> None:
    with pytest.raises(DataError, match=r"does not know: blue, green \(2 of 3\); the model knows red, black"):
        read_evaluation_set("classification", color_images, ("red", "black"))
    with pytest.raises(DataError, match=r"val\.json: has classes that the model does not know: fox \(1 of 2\)"):
        read_evaluation_set("detection", boxed_images, ("cat", "dog"))


def test_boxes_are_mapped_by_the_names_of_their_categories(boxed_images: Path) -> None:
    names = ("cat", "dog", "fox")
    content = json.loads((boxed_images / "annotations" / "val.json").read_text())
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    samples = read_evaluation_set("detection", boxed_images, names)
    assert [path.name for path in samples.paths] == [image["file_name"] for image in content["images"]]
    for image, truth in zip(content["images"], samples.truths, strict=True):
        expected = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        assert [names[label] for label in truth.labels] == [name_of[row["category_id"]] for row in expected]
        x, y, width, height = expected[0]["bbox"]
        assert truth.boxes[0].tolist() == pytest.approx([x, y, x + width, y + height], abs=1e-4)
    elsewhere = boxed_images / "annotations" / "val.json"
    assert read_evaluation_set("detection", boxed_images, names, annotations=elsewhere).paths == samples.paths


def test_mistakes(tmp_path: Path, boxed_images: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_evaluation_set("classification", tmp_path / "none", NAMES)
    with pytest.raises(DataError, match="no class folders"):
        read_evaluation_set("classification", tmp_path, NAMES)
    with pytest.raises(DataError, match="no annotations of the test split"):
        read_evaluation_set("detection", boxed_images, ("cat", "fox"), split="test")
    with pytest.raises(ConfigError, match="semantic_segmentation"):
        read_evaluation_set("semantic_segmentation", tmp_path, NAMES)
