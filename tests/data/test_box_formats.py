"""The same boxes in four formats, written here by hand, and what can be wrong with each."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.data import DetectionDataModule
from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.box_csv import BoxColumns
from autotimm.data.box_formats import find_format, read_boxed
from autotimm.data.boxed import BoxedData
from autotimm.evaluation import read_evaluation_set
from autotimm.evaluation.fitting import check_data_fits
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
from autotimm.runtime.preprocess import Preprocess

NAMES = ("bolt", "nut & washer", "screw")


@dataclass
class Picture:
    """An image file and what is in it, as integers xyxy between pixel edges."""

    name: str
    size: tuple[int, int]
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]


def pictures(count: int = 5, seed: int = 0) -> list[Picture]:
    """The first has no boxes."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        height, width = int(random.integers(40, 60)), int(random.integers(60, 90))
        boxes, labels = [], []
        for number in range(index):
            x, y = int(random.integers(0, width - 12)), int(random.integers(0, height - 12))
            right, bottom = int(random.integers(x + 6, width + 1)), int(random.integers(y + 6, height + 1))
            boxes.append((x, y, right, bottom))
            labels.append(number % len(NAMES))
        made.append(Picture(f"{seed}_{index}", (height, width), boxes, labels))
    return made


def write_pictures(folder: Path, given: list[Picture]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for one in given:
        Image.fromarray(random.integers(0, 256, (*one.size, 3), dtype=np.uint8)).save(folder / f"{one.name}.png")


def write_coco(root: Path, split: str, given: list[Picture], names: tuple[str, ...] = NAMES) -> Path:
    write_pictures(root / "images" / split, given)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 10 + 7 * index, "name": name} for index, name in enumerate(names)]
    for number, one in enumerate(given):
        height, width = one.size
        content["images"].append({"id": number, "file_name": f"{one.name}.png", "height": height, "width": width})
        for (x1, y1, x2, y2), label in zip(one.boxes, one.labels, strict=True):
            row = {"image_id": number, "category_id": 10 + 7 * label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            content["annotations"].append(row)
    file = root / "annotations" / f"{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_csv(
    root: Path,
    split: str,
    given: list[Picture],
    header: tuple[str, ...] = ("image", "xmin", "ymin", "xmax", "ymax", "label"),
) -> Path:
    write_pictures(root / "images" / split, given)
    file = root / f"{split}.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(header)
        for one in given:
            for box, label in zip(one.boxes, one.labels, strict=True):
                writer.writerow([f"{one.name}.png", *box, NAMES[label]])
            if not one.boxes:
                writer.writerow([f"{one.name}.png", "", "", "", "", ""])
    return file


def write_voc(root: Path, split: str, given: list[Picture]) -> Path:
    write_pictures(root / "JPEGImages", given)
    (root / "Annotations").mkdir(exist_ok=True)
    for one in given:
        height, width = one.size
        objects = "".join(
            f"<object><name>{escape(NAMES[label])}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), label in zip(one.boxes, one.labels, strict=True)
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{one.name}.png</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{one.name}.xml").write_text(text)
    file = root / "ImageSets" / "Main" / f"{split}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(one.name for one in given) + "\n")
    return file


def write_yolo(root: Path, split: str, given: list[Picture], images: str = "images/{split}") -> Path:
    folder = root / images.format(split=split)
    write_pictures(folder, given)
    labels = root / images.replace("images", "labels").format(split=split)
    labels.mkdir(parents=True, exist_ok=True)
    for one in given:
        height, width = one.size
        rows = [
            f"{label} {(x1 + x2) / 2 / width:.8f} {(y1 + y2) / 2 / height:.8f} "
            f"{(x2 - x1) / width:.8f} {(y2 - y1) / height:.8f}"
            for (x1, y1, x2, y2), label in zip(one.boxes, one.labels, strict=True)
        ]
        if rows:  # no file at all for an image without objects
            (labels / f"{one.name}.txt").write_text("\n".join(rows) + "\n")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return labels


WRITERS = {"coco": write_coco, "csv": write_csv, "voc": write_voc, "yolo": write_yolo}


def assert_same(data: BoxedData, given: list[Picture]) -> None:
    """In the order of the names, whatever the order of the classes."""
    assert sorted(data.class_names) == sorted(NAMES)
    assert len(data.images) == len(given)
    for image, one in zip(data.images, given, strict=True):
        assert image.path.stem == one.name
        assert image.path.is_file()
        assert image.size == one.size
        assert image.boxes.shape == (len(one.boxes), 4)
        np.testing.assert_allclose(image.boxes, np.array(one.boxes).reshape(-1, 4), atol=1e-4)
        assert [data.class_names[label] for label in image.labels] == [NAMES[label] for label in one.labels]
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        np.testing.assert_allclose(image.area, sides[:, 0] * sides[:, 1], rtol=1e-4)
        assert not image.crowd.any()
        assert (image.boxes.dtype, image.labels.dtype, image.area.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_boxes_in_each_format(tmp_path: Path, name: str) -> None:
    given = pictures()
    WRITERS[name](tmp_path, "train", given)
    assert find_format(tmp_path, "train") == name
    assert_same(read_boxed(tmp_path, "train"), given)
    assert_same(read_boxed(tmp_path, "train", format=name), given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_module_of_each_format(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path, "train", pictures())
    WRITERS[name](tmp_path, "val", pictures(3, seed=5))  # has two of the three classes
    data = DetectionDataModule(tmp_path, batch_size=5, num_workers=0, augmentation="none")
    data.use_preprocess(Preprocess((64, 96), fit="letterbox", align="top_left", antialias=False))
    data.setup("fit")
    assert sorted(data.class_names) == sorted(NAMES)
    (train,), (val,) = data.train_dataloader(), data.val_dataloader()
    assert sorted(len(boxes) for boxes in train.boxes) == [0, 1, 2, 3, 4]
    names = [[data.class_names[label] for label in truth.labels] for truth in val.truths]
    assert names == [[], ["bolt"], ["bolt", "nut & washer"]]
    evaluated = read_evaluation_set("detection", tmp_path, ["other", *reversed(NAMES)])
    check_data_fits("detection", tmp_path)
    assert [len(truth.boxes) for truth in evaluated.truths] == [0, 1, 2]
    assert [truth.labels.tolist() for truth in evaluated.truths] == [[], [3], [3, 2]]
    for truth, image in zip(evaluated.truths, evaluated.annotated, strict=True):
        assert torch.equal(truth.boxes, torch.from_numpy(image.boxes))


def test_numbers_of_the_classes_are_kept(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train", pictures(3))
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text("names: {0: bolt, 1: nut, 5: screw}\n")
    data = read_boxed(tmp_path, "train")
    assert (data.class_names, data.category_ids) == (("bolt", "nut", "screw"), (0, 1, 5))
    write_coco(tmp_path / "coco", "val", pictures(2))
    assert read_boxed(tmp_path / "coco", "val").category_ids == (10, 17, 24)


@pytest.mark.parametrize("value", ["../valid/images", "valid/images"])
def test_other_yolo_layouts(tmp_path: Path, value: str) -> None:
    given = pictures()
    write_yolo(tmp_path, "train", given, "{split}/images")
    write_yolo(tmp_path, "valid", given, "{split}/images")
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "data.yaml").write_text(f"names: {list(NAMES)}\nval: {value}\n")
    for split in ("train", "val"):
        assert find_format(tmp_path, split) == "yolo"
        assert_same(read_boxed(tmp_path, split), given)
    with pytest.raises(DataError, match="found no images of the test split"):
        read_boxed(tmp_path, "test")
    (tmp_path / "data.yaml").write_text("nc: 3\n")
    with pytest.raises(DataError, match="has no class names"):
        read_boxed(tmp_path, "train")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"coco: .*val\.json.*csv: .*val\.csv.*voc: .*Main.*yolo: .*--annotations"):
        read_boxed(tmp_path, "val")
    with pytest.raises(DataError, match="no voc annotations"):
        read_boxed(tmp_path, "val", format="voc")
    with pytest.raises(ConfigError, match="its ending does not say"):
        read_boxed(tmp_path, "val", annotations=tmp_path / "boxes.dat")
    with pytest.raises(ConfigError, match="did you mean voc"):
        DetectionDataModule(tmp_path, format="vocs")
    write_coco(tmp_path, "val", pictures(2))
    write_csv(tmp_path, "val", pictures(2))
    with pytest.raises(ConfigError, match=r"in several formats: coco .*, csv .*; say which: format='coco'"):
        read_boxed(tmp_path, "val")
    assert len(read_boxed(tmp_path, "val", format="csv").images) == 2


def test_a_table_without_boxes_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("image,label\na.png,bolt\n")
    with pytest.raises(DataError, match=r"val\.csv: has no column 'xmin', 'ymin', 'xmax', 'ymax'"):
        read_boxed(tmp_path, "val")


def test_csv_columns_and_places(tmp_path: Path) -> None:
    given = pictures(3)
    header = ("file", "x1", "y1", "x2", "y2", "kind")
    file = write_csv(tmp_path, "boxes", given, header).rename(tmp_path / "elsewhere.csv")
    columns = BoxColumns("file", header[1:5], "kind")
    data = read_boxed(tmp_path, "train", annotations=file, images=tmp_path / "images" / "boxes", columns=columns)
    assert data.class_names == ("bolt", "nut & washer")
    module = DetectionDataModule(
        tmp_path,
        val_annotations=file,
        val_images=tmp_path / "images" / "boxes",
        image_column="file",
        box_columns=header[1:5],
        label_column="kind",
    )
    assert [len(truth.boxes) for _, truth in module.validation_samples()] == [0, 1, 2]
    with pytest.raises(DataError, match="no column 'image', 'xmin'"):
        read_boxed(tmp_path, "train", annotations=file)
    with pytest.raises(ConfigError, match="four columns"):
        BoxColumns(box=("x", "y"))


def test_a_table_of_boxes_is_evaluated_by_itself(tmp_path: Path) -> None:
    file = write_csv(tmp_path, "val", pictures(3))
    check_data_fits("detection", file)
    assert [len(truth.boxes) for truth in read_evaluation_set("detection", file, NAMES).truths] == [0, 1, 2]
    file.write_text("image,label\na.png,bolt\n")
    with pytest.raises(DataError, match="is a file of labels"):
        check_data_fits("detection", file)


def test_sizes_are_those_of_upright_images(tmp_path: Path) -> None:
    """A phone's photograph: stored lying, with a tag that says so."""
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "val.csv").write_text("image,xmin,ymin,xmax,ymax,label\na.jpg,0,0,40,80,cat\n")
    (image,) = read_boxed(tmp_path, "val").images
    assert image.size == (80, 40)
    assert image.boxes.tolist() == [[0, 0, 40, 80]]


def voc(tmp_path: Path, content: str) -> Path:
    write_voc(tmp_path, "train", [Picture("one", (30, 40), [(0, 0, 40, 30)], [0])])
    (tmp_path / "Annotations" / "one.xml").write_text(content)
    return tmp_path


def test_xml_with_entities_is_not_read(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'
    with pytest.raises(DataError, match="declares the document type"):
        read_boxed(voc(tmp_path, bomb), "train", class_names=NAMES)


def test_voc_without_a_size_and_with_difficult_objects(tmp_path: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
    parts = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    data = read_boxed(
        voc(
            tmp_path,
            "<annotation><size><width>0</width><height>0</height></size>"
            f"<object><name>cat</name><difficult>1</difficult>{box}{parts}</object>"
            f"<object><name>dog</name>{box}</object></annotation>",
        ),
        "train",
    )
    assert data.class_names == ("cat", "dog")
    (image,) = data.images
    assert image.size == (30, 40)
    assert image.boxes.tolist() == [[0, 0, 40, 30]] * 2
    assert image.crowd.tolist() == [True, False]


def spoil_coco(root: Path) -> None:
    file = root / "annotations" / "train.json"
    content = json.loads(file.read_text())
    rows = content["annotations"]
    boxes = [[5, 5, 0, 4], [5, 5, 4, -1], [math.nan, 0, 4, 4], [0, 0, math.inf, 4], [900, 0, 4, 4], [1, 2]]
    rows += [{"image_id": 1, "category_id": 10, "bbox": box} for box in boxes]
    rows += [{"image_id": 1, "category_id": 99, "bbox": [0, 0, 5, 5]}, {"image_id": 77, "category_id": 10, "bbox": []}]
    size = {"width": 40, "height": 30}
    content["images"] += [{"id": 50, "file_name": "gone.png", **size}, {"id": 60, "file_name": "x.png", **size}]
    content["images"] += [{"id": 60, "file_name": "y.png", **size}, content["images"][2]]
    file.write_text(json.dumps(content))


def spoil_csv(root: Path) -> None:
    with (root / "train.csv").open("a") as file:
        file.write("0_1.png,5,5,5,9,bolt\n0_1.png,5,5,nan,9,bolt\n0_1.png,500,5,600,9,bolt\n0_1.png,5,five,6,9,bolt\n")
        file.write(
            "0_1.png,5,5,,9,bolt\n0_1.png,1,1,9,9,\ngone.png,1,1,9,9,bolt\nbroken.png,1,1,9,9,bolt\n,1,1,9,9,bolt\n"
        )
    (root / "images" / "train" / "broken.png").write_bytes(b"no image")


def spoil_voc(root: Path) -> None:
    folder = root / "Annotations"
    file = folder / "0_1.xml"
    text = file.read_text()
    box = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"
    bad = [box.format(*values) for values in (("bolt", 9, 5), ("bolt", "inf", 9), ("bolt", 500, 600), ("bolt", "x", 9))]
    file.write_text(text.replace("</annotation>", "".join([*bad, box.format("", 2, 9)]) + "</annotation>"))
    (folder / "half.xml").write_text(text[: len(text) // 2])
    write_pictures(root / "JPEGImages", [Picture("half", (30, 30), [], []), Picture("bare", (30, 30), [], [])])
    with (root / "ImageSets" / "Main" / "train.txt").open("a") as names:
        names.write("half\nbare\ngone\n0_1\n")


def spoil_yolo(root: Path) -> None:
    with (root / "labels" / "train" / "0_1.txt").open("a") as file:
        file.write(
            "0 0.5 0.5 0 0.1\n0 nan 0.5 0.1 0.1\n0 1.9 0.5 0.1 0.1\n0 0.5 0.5\n9 0.5 0.5 0.1 0.1\n0.5 0.5 0.5 0.1 0.1\n"
        )
    (root / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "images" / "train" / "broken.png").write_bytes(b"no image")


BOXES = {"boxes of no positive size": 1, "boxes with numbers that are not finite": 1, "boxes outside their image": 1}
GONE = {"images that are not in": 1}
UNREADABLE = {"images that cannot be read": 1}
SPOILED: dict[str, tuple[Any, dict[str, int]]] = {
    "coco": (
        spoil_coco,
        {
            **BOXES,
            "boxes of no positive size": 2,
            "boxes with numbers that are not finite": 2,
            **GONE,
            "boxes that are not four numbers": 1,
            "annotations with category ids": 1,
            "annotations of images": 1,
            "entries of images with an id": 3,
        },
    ),
    "csv": (
        spoil_csv,
        {
            **BOXES,
            "boxes with numbers that are not finite": 2,
            **GONE,
            **UNREADABLE,
            "boxes that are not four numbers": 1,
            "boxes without a class": 1,
            "rows that name no image": 1,
        },
    ),
    "voc": (
        spoil_voc,
        {
            **BOXES,
            **GONE,
            "boxes that are not four numbers": 1,
            "boxes of classes that are not known": 1,
            "XML files that cannot be read": 1,
            "images without an XML file": 1,
        },
    ),
    "yolo": (
        spoil_yolo,
        {
            **BOXES,
            **UNREADABLE,
            "rows that are not a class and four": 1,
            "boxes of class numbers without": 2,
            "text files whose images are not in": 1,
        },
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_bad_annotations_are_counted_then_refused_or_left_out(tmp_path: Path, name: str) -> None:
    given = pictures()
    WRITERS[name](tmp_path, "train", given)
    spoil, counts = SPOILED[name]
    spoil(tmp_path)
    with pytest.raises(DataError, match="bad_annotations='skip'") as refused:
        read_boxed(tmp_path, "train")
    with pytest.warns(DataWarning) as told:
        data = read_boxed(tmp_path, "train", bad_annotations="skip")
    assert len(told) == 1
    for message in (str(refused.value), str(told[0].message)):
        assert "\n" not in message
        kinds = message.split(": ", 1)[1].removeprefix("left out ").split("; ")
        assert len(kinds) == len(counts)
        for kind, count in counts.items():
            assert any(one.startswith(f"{count} {kind}") for one in kinds), (kind, kinds)
    assert_same(data, given)


def test_nothing_is_left(tmp_path: Path) -> None:
    write_csv(tmp_path, "train", pictures(1))
    (tmp_path / "train.csv").write_text("image,xmin,ymin,xmax,ymax,label\ngone.png,1,1,9,9,cat\n")
    with pytest.raises(DataError, match="no image is left: 1 images that are not in"):
        read_boxed(tmp_path, "train", bad_annotations="skip")
    with pytest.raises(ConfigError, match="did you mean skip"):
        BadAnnotations("skipp")
    with pytest.raises(ConfigError, match="did you mean skip"):
        DetectionDataModule(tmp_path, bad_annotations="skipp")


def test_classes_that_only_validation_has(tmp_path: Path) -> None:
    write_csv(tmp_path, "train", pictures(3))
    write_csv(tmp_path, "val", pictures(5, seed=3))
    with pytest.raises(DataError, match="boxes of classes that are not known: screw"):
        DetectionDataModule(tmp_path).validation_samples()
    with pytest.warns(DataWarning, match="3 boxes of classes|2 boxes of classes"):
        DetectionDataModule(tmp_path, bad_annotations="skip").validation_samples()


def test_half_a_file_is_refused_whatever_the_option(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "train", pictures())
    file.write_text(file.read_text()[:400])
    with pytest.raises(DataError, match="perhaps cut off"):
        read_boxed(tmp_path, "train", bad_annotations="skip")


@pytest.mark.parametrize("augmentation", ["default", "yolox"])
def test_five_hundred_boxes_in_one_image(tmp_path: Path, augmentation: str) -> None:
    random = np.random.default_rng(0)
    corners = random.integers(0, 300, (500, 2))
    boxes = [(int(x), int(y), int(x) + 20, int(y) + 16) for x, y in corners]
    many = Picture("many", (320, 320), boxes, random.integers(0, 3, 500).tolist())
    write_coco(tmp_path, "train", [many, *pictures(3)])
    write_coco(tmp_path, "val", [many])
    data = DetectionDataModule(tmp_path, batch_size=4, num_workers=0, augmentation=augmentation)
    data.use_preprocess(Preprocess((128, 128), fit="letterbox", align="top_left", antialias=False))
    (batch,) = data.train_dataloader()
    assert max(len(boxes) for boxes in batch.boxes) > 100
    assert [len(boxes) for boxes in batch.boxes] == [len(labels) for labels in batch.labels]
    (batch,) = data.val_dataloader()
    assert len(batch.truths[0].boxes) == 500


@pytest.mark.parametrize("name", ["csv", "voc", "yolo"])
def test_blood_cells_in_each_format(shared: Path, tmp_path: Path, name: str) -> None:
    """Real boxes, written again from what the COCO reader gives; the images are linked."""
    real = read_boxed(shared / "data/det/bccd", "val")
    given = [
        Picture(image.path.stem, image.size, [tuple(map(int, box)) for box in image.boxes], image.labels.tolist())
        for image in real.images
    ]
    assert all((image.boxes == image.boxes.astype(int)).all() for image in real.images)
    folder = tmp_path / ("JPEGImages" if name == "voc" else "images/val")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.NAMES", real.class_names)
        patch.setattr(f"{__name__}.write_pictures", lambda *_: None)
        folder.mkdir(parents=True)
        for image in real.images:
            (folder / f"{image.path.stem}.png").symlink_to(image.path)
        WRITERS[name](tmp_path, "val", given)
        data = read_boxed(tmp_path, "val")
    assert set(data.class_names) == set(real.class_names)
    by_name = {image.path.stem: image for image in data.images}
    for image in real.images:
        other = by_name[image.path.stem]
        assert other.size == image.size
        np.testing.assert_allclose(other.boxes, image.boxes, atol=1e-3)
        assert [data.class_names[label] for label in other.labels] == [
            real.class_names[label] for label in image.labels
        ]
