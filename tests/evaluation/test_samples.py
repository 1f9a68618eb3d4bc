import json
from contextlib import nullcontext as nothing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.data import ImageDataModule, MultiLabelImageDataModule
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
    with pytest.raises(DataError, match="found no masks of the val split"):
        read_evaluation_set("semantic_segmentation", tmp_path, NAMES)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_csv_file_is_evaluated_as_the_data_module_reads_it(listed: Path) -> None:
    lines = ["image,label", "pictures/a.png,green", "pictures/b.png,red", "pictures/c.png,green"]
    file = write(listed / "val.csv", *lines)
    samples = read_evaluation_set("classification", file, NAMES)
    assert [NAMES[truth] for truth in samples.truths] == ["green", "red", "green"]
    data = ImageDataModule(listed, train_csv=file, val_csv=file)
    assert [(path, data.class_names[label]) for path, label in data.validation_samples()] == [
        (path, NAMES[truth]) for path, truth in zip(samples.paths, samples.truths, strict=True)
    ]
    elsewhere = write(listed / "pictures" / "other.csv", *lines)
    assert read_evaluation_set("classification", elsewhere, NAMES, images=listed).paths == samples.paths
    with pytest.raises(DataError, match="3 of 3 images are not there"):
        read_evaluation_set("classification", elsewhere, NAMES)


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (("image,green,blue,violet,red", "pictures/a.png,1,0,0,1", "pictures/b.png,0,0,0,0"), {}),
        (("image,labels", "pictures/a.png,red|green", "pictures/b.png,"), {"label_column": "labels"}),
    ],
)
def test_classes_of_a_multi_label_csv_are_found_by_name(listed: Path, lines: tuple[str, ...], options: dict) -> None:
    file = write(listed / "val.csv", *lines)
    samples = read_evaluation_set("classification", file, NAMES, multi_label=True)
    assert [truth.tolist() for truth in samples.truths] == [[1, 0, 1, 0], [0, 0, 0, 0]]
    assert samples.truths[0].dtype == np.float32
    with pytest.warns(UserWarning, match="no image has the class") if not options else nothing():
        data = MultiLabelImageDataModule(listed, train_csv=file, val_csv=file, **options)
        for (_, label), truth in zip(data.validation_samples(), samples.truths, strict=True):
            assert {data.class_names[index] for index in np.flatnonzero(label)} == {
                NAMES[index] for index in np.flatnonzero(truth)
            }


@pytest.mark.parametrize(
    ("multi_label", "lines", "says"),
    [
        (False, ("image,label", "pictures/a.png,black"), "does not know: black"),
        (False, ("image,class", "pictures/a.png,red"), r"no column 'label'; its columns are image, class"),
        (True, ("image,red,green", "pictures/a.png,1,0"), r"no column for violet, blue \(2 of the model's 4"),
        (True, ("image,red,violet,green,blue", "pictures/a.png,1,0,0,yes"), "'blue' are not 0 or 1, .* 'yes'"),
        (True, ("image", "pictures/a.png"), "no labels"),
    ],
)
def test_mistakes_in_a_csv(listed: Path, multi_label: bool, lines: tuple[str, ...], says: str) -> None:
    file = write(listed / "val.csv", *lines)
    with pytest.raises(DataError, match=says):
        read_evaluation_set("classification", file, NAMES, multi_label=multi_label)


def test_further_columns_of_a_csv_are_left_alone(listed: Path) -> None:
    """Where every class of the model has its own; ``split``, say, or what a model of more classes would need."""
    file = write(listed / "val.csv", "image,split,red,violet,green,blue,black", "pictures/a.png,val,1,0,0,1,1")
    samples = read_evaluation_set("classification", file, NAMES, multi_label=True)
    assert {NAMES[index] for index in np.flatnonzero(samples.truths[0])} == {"red", "blue"}


def test_columns_of_other_names(listed: Path) -> None:
    """As the data modules are told of them."""
    file = write(listed / "val.csv", "label,picture,class_id", "7,pictures/a.png,green", "8,pictures/b.png,red")
    named = {"image": "picture", "label": "class_id"}
    samples = read_evaluation_set("classification", file, NAMES, columns=named)
    data = ImageDataModule(listed, train_csv=file, val_csv=file, image_column="picture", label_column="class_id")
    assert [(path, data.class_names[label]) for path, label in data.validation_samples()] == [
        (path, NAMES[truth]) for path, truth in zip(samples.paths, samples.truths, strict=True)
    ]
    file = write(listed / "tags.csv", "picture,by,tags", "pictures/a.png,me,red; green", "pictures/b.png,me,blue")
    named = {"image": "picture", "label": "tags"}
    tagged = read_evaluation_set("classification", file, NAMES, multi_label=True, columns=named, label_separator=";")
    assert [truth.tolist() for truth in tagged.truths] == [[1, 0, 1, 0], [0, 0, 0, 1]]
    edges = {"xmin": "left", "ymin": "top", "xmax": "right", "ymax": "bottom"}
    file = write(listed / "boxes.csv", "image,top,left,bottom,right,kind", "pictures/a.png,1,2,3,5,red")
    boxed = read_evaluation_set("detection", file, NAMES, columns={**edges, "label": "kind"})
    assert boxed.truths[0].boxes.tolist() == [[2, 1, 5, 3]]
    assert boxed.truths[0].labels.tolist() == [0]


def test_mistakes_in_the_names_of_columns(listed: Path, color_images: Path, boxed_images: Path) -> None:
    file = write(listed / "val.csv", "image,label", "pictures/a.png,green")
    with pytest.raises(ConfigError, match=r"no column of CSV files \(columns\) 'lable'; did you mean label"):
        read_evaluation_set("classification", file, NAMES, columns={"lable": "class_id"})
    for multi_label in (False, True):
        with pytest.raises(DataError, match="no column 'class_id'; its columns are image, label"):
            read_evaluation_set("classification", file, NAMES, multi_label=multi_label, columns={"label": "class_id"})
    with pytest.raises(ConfigError, match=r"columns of a CSV file \(label\), but the data is "):
        read_evaluation_set("classification", color_images, NAMES, columns={"label": "class_id"})
    with pytest.raises(ConfigError, match=r"columns of a CSV file \(label\), but the data is .*val\.json"):
        read_evaluation_set("detection", boxed_images, ("cat", "dog", "fox"), columns={"label": "class_id"})
    with pytest.raises(ConfigError, match="columns names columns of a CSV file"):
        read_evaluation_set("semantic_segmentation", color_images, NAMES, columns={"label": "class_id"})


def test_masks_of_objects_are_in_coco_files(boxed_images: Path) -> None:
    with pytest.raises(ConfigError, match="format is 'voc', but masks of objects are read from COCO files only"):
        read_evaluation_set("instance_segmentation", boxed_images, ("cat", "dog", "fox"), format="voc")


def test_files_that_are_not_there(listed: Path, color_images: Path) -> None:
    with pytest.raises(DataError, match="no such CSV file"):
        read_evaluation_set("classification", listed / "none.csv", NAMES)
    with pytest.raises(DataError, match="evaluated on a CSV file"):
        read_evaluation_set("classification", color_images, NAMES, multi_label=True)
