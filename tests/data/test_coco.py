import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.box_formats import read_boxed
from autotimm.data.coco import read_coco
from autotimm.runtime.errors import DataError, DataWarning

NOTHING, NOT_FINITE = "boxes of no positive size", "boxes with numbers that are not finite"


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 10, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 20, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 7, "name": "late"}, {"id": 3, "name": "early"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [5, 6, 10, 8], "area": 50, "iscrowd": 0},
            {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 20, 20], "area": 9.5, "iscrowd": 1},
        ],
    }


def write(root: Path, data: Any, annotations: str = "annotations/val.json", images: str = "images/val") -> Path:
    for name in ("a.png", "b.png"):
        (root / images).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(root / images / name)
    file = root / annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def test_records(tmp_path: Path) -> None:
    dataset = read_coco(write(tmp_path, content()))
    assert dataset.class_names == ("early", "late")
    assert dataset.category_ids == (3, 7)
    first, second = dataset.images
    assert first.boxes.tolist() == [[5, 6, 15, 14], [0, 0, 20, 20]]
    assert first.labels.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert first.area.tolist() == [50, 9.5]
    assert (first.image_id, first.size, first.path.name) == (10, (30, 40), "a.png")
    assert second.boxes.shape == (0, 4)  # an image without objects is kept


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/val.json", "images/val"),
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/val.json", "images"),
    ],
)
def test_layouts_are_found(tmp_path: Path, annotations: str, images: str) -> None:
    file = write(tmp_path, content(), annotations, images)
    data = read_boxed(tmp_path, "val")
    assert data.source == file
    assert data.images[0].path == tmp_path / images / "a.png"


def test_explicit_places(tmp_path: Path) -> None:
    file = write(tmp_path, content(), "labels.json", "pictures")
    assert len(read_coco(file, tmp_path / "pictures").images) == 2
    with pytest.raises(DataError, match="train_annotations"):
        read_boxed(tmp_path, "train")


def test_boxes_are_clipped_and_impossible_ones_dropped(tmp_path: Path) -> None:
    data = content()
    boxes = [[30, 20, 50, 50], [5, 5, 0, 4], [5, 5, 4, -1], [math.nan, 0, 4, 4], [100, 0, 4, 4], [-3, -3, 5, 5]]
    data["annotations"] = [{"image_id": 20, "category_id": 3, "bbox": box} for box in boxes]
    file = write(tmp_path, data)
    with pytest.raises(DataError, match=f"2 {NOTHING}.*; 1 {NOT_FINITE}.*; 1 boxes outside.*bad_annotations='skip'"):
        read_coco(file)
    bad = BadAnnotations("skip")
    with pytest.warns(
        DataWarning, match=rf"left out 2 {NOTHING}: b.png \(5, 5, 5, 9\), b.png \(5, 5, 9, 4\);"
    ) as caught:
        dataset = read_coco(file, bad=bad)
    assert len(caught) == 1
    assert bad.counts == {NOTHING: 2, NOT_FINITE: 1, "boxes outside their image": 1}
    assert dataset.images[1].boxes.tolist() == [[30, 20, 40, 30], [0, 0, 2, 2]]
    assert dataset.images[1].area.tolist() == [100, 4]  # none was annotated: the clipped box's


def edit(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = content()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (json.dumps(content())[:200], "not readable JSON"),
        ([1, 2], "no list images, annotations, categories"),
        (edit(lambda d: d.pop("categories")), "no list categories"),
        (edit(lambda d: d["images"].clear()), "lists no images"),
        (edit(lambda d: d["categories"].clear()), "no categories"),
        (edit(lambda d: d["categories"].append({"id": 9, "name": "late"})), "occurs twice"),
        (edit(lambda d: d["categories"].append({"name": "x"})), "no id or no name"),
        (
            edit(lambda d: d["annotations"][0].update(category_id=99)),
            "1 annotations with category ids that are not in categories: 99",
        ),
        (
            edit(lambda d: d["annotations"][0].update(image_id=99)),
            "1 annotations of images that are not in images: id 99",
        ),
        (edit(lambda d: d["annotations"][0].update(bbox=[1, 2, 3])), r"1 boxes that are not four numbers: a\.png"),
        (edit(lambda d: d["annotations"][0].pop("bbox")), "annotations has no bbox"),
        (edit(lambda d: d["images"][0].pop("width")), "images has no width"),
        (
            edit(lambda d: d["images"][1].update(id=10)),
            r"2 entries of images with an id that occurs twice: id 10 \(a\.png\), id 10 \(b",
        ),
        (edit(lambda d: d["images"][1].update(file_name="gone.png")), r"1 images that are not in .*val: gone\.png"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, data: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_coco(write(tmp_path, data))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such annotation file"):
        read_coco(tmp_path / "none.json")


def test_coco_photos_against_their_json(shared: Path) -> None:
    root = shared / "data/inst/coco_train128"
    file = read_boxed(root, "train").source
    dataset = read_coco(file)
    raw = json.loads(file.read_text())
    assert len(dataset.class_names) == len(raw["categories"])
    assert sum(len(image.labels) for image in dataset.images) == 929
    assert dataset.category_ids == tuple(sorted(category["id"] for category in raw["categories"]))
    for image in dataset.images[:20]:
        rows = [row for row in raw["annotations"] if row["image_id"] == image.image_id]
        assert [dataset.category_ids[label] for label in image.labels] == [row["category_id"] for row in rows]
        corners = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        np.testing.assert_allclose(image.boxes, corners, atol=0.02)
