"""Masks in each layout, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from autotimm.data.mask_classes import VOC_CLASSES
from autotimm.data.mask_formats import mask_formats_there, read_masked
from autotimm.data.masked import MaskedSamples
from autotimm.runtime.errors import ConfigError, DataError, DataWarning

SIZE = (12, 16)


def save(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def picture(path: Path, size: tuple[int, int] = SIZE, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path, **options)


def numbers(*values: int) -> np.ndarray:
    """A mask of stripes."""
    return np.repeat(np.array(values, np.uint8), -(-SIZE[1] // len(values)))[None, : SIZE[1]].repeat(SIZE[0], axis=0)


def plain(root: Path, mask: np.ndarray, names: str = "sky\nroad\ncar\n") -> Path:
    """A data set of one image and one mask."""
    (root / "classes.txt").write_text(names)
    picture(root / "val" / "images" / "a.jpg")
    save(root / "val" / "masks" / "a.png", mask)
    return root


@pytest.mark.parametrize(
    ("images", "masks"), [("val/images", "val/masks"), ("images/val", "masks/val"), ("images/val", "annotations/val")]
)
def test_png_files_beside_images(images: str, masks: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("sky\nroad\n\ncar\n")
    for name in "ba":
        picture(tmp_path / images / f"{name}.jpg")
    save(tmp_path / masks / "a.png", numbers(0, 1, 255, 2))
    save(tmp_path / masks / "b.png", numbers(2), [9, 8, 7, 1, 2, 3, 200, 100, 0])
    assert list(mask_formats_there(tmp_path, "val")) == ["png"]
    data = read_masked(tmp_path, "val")
    assert data.classes.class_names == ("sky", "road", "car")
    assert data.classes.palette is None  # the first mask has none
    assert [image.path.name for image in data.images] == ["a.jpg", "b.jpg"]
    first = data.load_mask(0)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, numbers(0, 1, 255, 2))
    np.testing.assert_array_equal(data.load_mask(1), numbers(2))


@pytest.mark.parametrize(
    ("mask", "mode"),
    [
        (numbers(0, 1, 2), "L"),
        (numbers(0, 1, 2).astype(np.uint16), "I;16"),
        (numbers(0, 1, 2)[..., None].repeat(3, axis=2), "RGB"),
        (np.dstack([numbers(0, 1, 2)] * 3 + [numbers(255)]), "RGBA"),
    ],
)
def test_numbers_in_other_kinds_of_files(mask: np.ndarray, mode: str, tmp_path: Path) -> None:
    data = read_masked(plain(tmp_path, mask), "val")
    assert isinstance(data.images[0].mask, Path)
    with Image.open(data.images[0].mask) as image:
        assert image.mode == mode
    np.testing.assert_array_equal(data.load_mask(0), numbers(0, 1, 2))


def test_numbers_above_a_byte(tmp_path: Path) -> None:
    many = numbers(0, 1, 2).astype(np.uint16) * 1000
    root = plain(tmp_path, many)
    mapping = {0: "sky", 1000: "road", 2000: None}
    data = read_masked(root, "val", class_names=["road", "sky"], class_mapping=mapping, ignore_index=65535)
    mask = data.load_mask(0)
    assert mask.dtype == np.int32
    np.testing.assert_array_equal(mask, np.array([1, 0, 65535])[numbers(0, 1, 2)])


def test_colours_that_a_mapping_names(tmp_path: Path) -> None:
    colors = np.array([[128, 64, 128], [0, 0, 0], [128, 0, 0], [128, 64, 0]], np.uint8)
    (tmp_path / "val").mkdir()
    root = plain(tmp_path, colors[numbers(0, 1, 2, 3)])
    (root / "classes.txt").unlink()
    mapping = {"128, 64, 128": "road", (0, 0, 0): None, "128,0,0": "car", "128, 64, 0": "road"}
    data = read_masked(root, "val", class_mapping=mapping)
    assert data.classes.class_names == ("road", "car")
    assert data.classes.palette == ((128, 64, 128), (128, 0, 0))
    np.testing.assert_array_equal(data.load_mask(0), np.array([0, 255, 1, 0])[numbers(0, 1, 2, 3)])
    del mapping["128, 64, 0"]
    with pytest.raises(DataError, match=r"1 masks with colours of no class: a\.png \(128, 64, 0\)"):
        read_masked(root, "val", class_mapping=mapping)
    with pytest.raises(DataError, match=r"1 masks in colours: a\.png \(mode RGB; class_mapping says"):
        read_masked(root, "val", class_names=["road", "car"])


def test_pascal_voc(tmp_path: Path) -> None:
    palette = [level for index in range(256) for level in (index, 255 - index, 7)]
    for name in ("2007_1", "2007_2", "2007_3"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        save(tmp_path / "SegmentationClass" / f"{name}.png", numbers(0, 15, 255), palette)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_3\n2007_1\n")
    data = read_masked(tmp_path, "val")
    assert [image.path.stem for image in data.images] == ["2007_3", "2007_1"]
    assert data.classes.class_names == VOC_CLASSES
    assert len(VOC_CLASSES) == 21
    assert VOC_CLASSES[15] == "person"
    assert data.classes.palette is not None
    assert data.classes.palette[15] == (15, 240, 7)
    np.testing.assert_array_equal(data.load_mask(0), numbers(0, 15, 255))
    (lists / "val.txt").write_text("2007_1\n2007_9\n")
    with pytest.raises(DataError, match=r"1 images that are not in .*JPEGImages: 2007_9"):
        read_masked(tmp_path, "val")


def test_cityscapes(tmp_path: Path) -> None:
    for city in ("bonn", "ulm"):
        picture(tmp_path / "leftImg8bit" / "val" / city / f"{city}_000000_000019_leftImg8bit.png")
        target = tmp_path / "gtFine" / "val" / city / f"{city}_000000_000019_gtFine"
        save(target.with_name(f"{target.name}_labelIds.png"), numbers(7, 8, 0, 33))
        save(target.with_name(f"{target.name}_instanceIds.png"), numbers(1))
    data = read_masked(tmp_path, "val")
    assert len(data.images) == 2
    assert len(data.classes.class_names) == 19
    assert (data.classes.class_names[0], data.classes.class_names[18]) == ("road", "bicycle")
    np.testing.assert_array_equal(data.load_mask(1), np.array([0, 1, 255, 18])[numbers(0, 1, 2, 3)])


def test_coco_objects_are_painted(tmp_path: Path) -> None:
    """Polygons, and RLE compressed and not; a small object on a large one stays in sight."""
    (tmp_path / "annotations").mkdir()
    picture(tmp_path / "images" / "val" / "a.jpg")
    large = np.zeros(SIZE, np.uint8)
    large[2:10, 3:13] = 1
    small = np.zeros(SIZE, np.uint8)
    small[4:6, 5:7] = 1
    rle = coco_masks.encode(np.asfortranarray(small))
    flat = large.T.ravel()
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
    shapes = [
        (4, {"size": list(SIZE), "counts": rle["counts"].decode()}, [5, 4, 2, 2]),
        (9, {"size": list(SIZE), "counts": runs}, [3, 2, 10, 8]),
        (9, [[0, 0, 3, 0, 3, 2, 0, 2]], [0, 0, 3, 2]),
    ]
    annotations = [
        {"id": number, "image_id": 1, "category_id": category, "bbox": box, "segmentation": shape, "iscrowd": 0}
        for number, (category, shape, box) in enumerate(shapes)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "lake"}, {"id": 4, "name": "boat"}],
    }
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(content))
    data = read_masked(tmp_path, "val")
    assert data.classes.class_names == ("background", "boat", "lake")
    expected = 2 * large
    expected[:2, :3] = 2
    expected[small == 1] = 1
    np.testing.assert_array_equal(data.load_mask(0), expected)


def unlabelled(root: Path) -> None:
    picture(root / "val" / "images" / "b.jpg")


def without_image(root: Path) -> None:
    save(root / "val" / "masks" / "b.png", numbers(0))


def of_another_size(root: Path) -> None:
    unlabelled(root)
    save(root / "val" / "masks" / "b.png", numbers(0)[:5])


def as_stored(root: Path) -> None:
    """A photograph that its EXIF data turn by 90 degrees, and a mask of what is stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "val" / "images" / "b.jpg", exif=exif)
    save(root / "val" / "masks" / "b.png", numbers(0))


def of_no_class(root: Path) -> None:
    unlabelled(root)
    save(root / "val" / "masks" / "b.png", numbers(0, 3, 7, 255))


def empty(root: Path) -> None:
    unlabelled(root)
    save(root / "val" / "masks" / "b.png", numbers(255))


def damaged(root: Path) -> None:
    without_image(root)
    unlabelled(root)
    file = root / "val" / "masks" / "b.png"
    file.write_bytes(file.read_bytes()[:45])


def damaged_image(root: Path) -> None:
    without_image(root)
    (root / "val" / "images" / "b.jpg").write_bytes(b"no image at all")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unlabelled, r"1 images without a mask in .*masks: b\.jpg"),
        (without_image, r"1 masks without an image in .*images: b\.png"),
        (of_another_size, r"1 masks of another size than their image: b\.jpg \(image 16 x 12, mask 16 x 5\)"),
        (as_stored, r"b\.jpg \(image 12 x 16, mask 16 x 12, which is the image as it is stored: its EXIF data turn it"),
        (of_no_class, r"1 masks with numbers of no class: b\.png \(3, 7\)"),
        (empty, r"1 masks without a labelled pixel: b\.jpg"),
        (damaged, r"1 masks that cannot be read: b\.png \("),
        (damaged_image, r"1 images that cannot be read: .*b\.jpg: is not an image"),
    ],
)
def test_what_cannot_be_used_is_refused_or_left_out(spoil: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    root = plain(tmp_path, numbers(0, 1, 2))
    spoil(root)
    with pytest.raises(DataError, match=told) as refused:
        read_masked(root, "val")
    assert "bad_annotations='skip'" in str(refused.value)
    with pytest.warns(DataWarning, match=told):
        data = read_masked(root, "val", bad_annotations="skip")
    assert [image.path.name for image in data.images] == ["a.jpg"]


def test_places_that_are_not_usual(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.jpg")
    save(tmp_path / "labels" / "a.png", numbers(1))
    data = read_masked(
        tmp_path, "val", annotations=tmp_path / "labels", images=tmp_path / "photos", class_names=["sky", "road"]
    )
    np.testing.assert_array_equal(data.load_mask(0), numbers(1))
    with pytest.raises(ConfigError, match="say where their images are"):
        read_masked(tmp_path, "val", annotations=tmp_path / "labels", class_names=["sky", "road"])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    root = plain(tmp_path, numbers(0, 1))
    with pytest.raises(
        DataError, match=r"found no masks of the train split: looked for png: .*train/masks or .*; voc: "
    ):
        read_masked(root, "train")
    with pytest.raises(DataError, match=r"nowhere: there is no such folder"):
        read_masked(root / "nowhere", "val")
    (root / "classes.txt").write_text("sky\nsky\n")
    with pytest.raises(DataError, match=r"classes\.txt: names no class, or one twice"):
        read_masked(root, "val")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"name the classes in classes\.txt, one a line"):
        read_masked(root, "val")
    assert read_masked(root, "val", usual_names=("sky", "road")).classes.class_names == ("sky", "road")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({0: "sky", "1, 2, 3": "road"}, "has numbers and colours"),
        ({0: "sea"}, r"there is no class \(in class_mapping\) 'sea'"),
        ({"1, 2": "sky"}, "has the key '1, 2'"),
        ({-1: "sky"}, "has the key -1"),
        ({"300, 0, 0": "sky"}, "has the key '300, 0, 0'"),
    ],
)
def test_mappings_that_cannot_be(mapping: dict[Any, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_masked(plain(tmp_path, numbers(0)), "val", class_mapping=mapping)


def test_an_ignore_index_that_is_a_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ignore_index is 1, which is the class 'road'"):
        read_masked(plain(tmp_path, numbers(0)), "val", ignore_index=1)


def test_a_class_of_the_model_beyond_a_byte(tmp_path: Path) -> None:
    """The data know three classes, which the model has among three hundred."""
    data = read_masked(plain(tmp_path, numbers(0, 1, 2, 255)), "val")
    found = MaskedSamples(data, [7, 280, 299]).truth(0)
    assert np.unique(found).tolist() == [7, 255, 280, 299]


def test_the_reference_data(shared: Path) -> None:
    data = read_masked(shared / "data" / "seg" / "pets3", "val")
    assert data.classes.class_names == ("background", "cat", "dog")
    counts = sum(np.bincount(data.load_mask(index).ravel(), minlength=256) for index in range(len(data.images)))
    assert {index: int(counts[index]) for index in np.flatnonzero(counts)} == {
        0: 1317672,
        1: 353890,
        2: 546087,
        255: 258341,
    }
