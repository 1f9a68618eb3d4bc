from pathlib import Path

import pytest
from PIL import Image

from autotimm.data.image_folder import read_image_folder
from autotimm.runtime.errors import AutoTimmError, ConfigError, DataError


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index:02d}.png")


def test_train_and_val_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        fill(tmp_path / split / "dog", count)
        fill(tmp_path / split / "cat", count)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image")
    folder = read_image_folder(tmp_path)
    assert folder.class_names == ("cat", "dog")
    assert [sample.label for sample in folder.train] == [0, 0, 0, 1, 1, 1]
    assert len(folder.val) == 4
    assert all(sample.path.parent.name == folder.class_names[sample.label] for sample in folder.train)


def test_val_may_lack_a_class(tmp_path: Path) -> None:
    for name in ("cat", "dog", "eel"):
        fill(tmp_path / "train" / name, 1)
    for name in ("dog", "eel"):
        fill(tmp_path / "val" / name, 1)
    assert [sample.label for sample in read_image_folder(tmp_path).val] == [1, 2]


def test_a_part_of_each_class_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "a", 10)
    fill(tmp_path / "b", 2)
    folder = read_image_folder(tmp_path, val_fraction=0.3, seed=1)
    assert [sum(sample.label == label for sample in folder.val) for label in (0, 1)] == [3, 1]
    assert len(folder.train) == 8
    assert {sample.path for sample in folder.train}.isdisjoint(sample.path for sample in folder.val)
    assert read_image_folder(tmp_path, val_fraction=0.3, seed=1) == folder
    assert read_image_folder(tmp_path, val_fraction=0.3, seed=2) != folder
    fill(tmp_path / "c", 5)
    again = read_image_folder(tmp_path, val_fraction=0.3, seed=1)
    assert [sample for sample in again.val if sample.label < 2] == list(folder.val)


def test_everything_can_be_for_validation(tmp_path: Path) -> None:
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 1)
    folder = read_image_folder(tmp_path, val_fraction=1.0)
    assert (len(folder.train), len(folder.val)) == (0, 4)


def test_a_lone_val_folder_can_be_evaluated(tmp_path: Path) -> None:
    fill(tmp_path / "val" / "a", 1)
    fill(tmp_path / "val" / "b", 1)
    folder = read_image_folder(tmp_path)
    assert folder.class_names == ("a", "b")
    assert (len(folder.train), len(folder.val)) == (0, 2)


def test_an_empty_class_is_named_with_the_counts(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 2)
    fill(tmp_path / "dog", 0)
    with pytest.raises(DataError, match=r"1 of 2 class folders hold no image: dog \(images found: cat 2, dog 0\)"):
        read_image_folder(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    fill(tmp_path / "cat", 2)
    with pytest.raises(DataError, match="one class only, cat with 2 images"):
        read_image_folder(tmp_path)


def test_a_class_that_only_val_has(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "val/a", "val/zebra"):
        fill(tmp_path / name, 2)
    with pytest.raises(DataError, match=r"zebra \(2 images\)"):
        read_image_folder(tmp_path)


def test_train_without_val_is_not_split_in_silence(tmp_path: Path) -> None:
    fill(tmp_path / "train" / "a", 2)
    fill(tmp_path / "train" / "b", 2)
    with pytest.raises(DataError, match="no folder val"):
        read_image_folder(tmp_path)
    assert len(read_image_folder(tmp_path / "train").val) == 2


@pytest.mark.parametrize(
    ("prepare", "fraction", "error", "says"),
    [
        (lambda root: None, 0.2, DataError, "no class folders"),
        (lambda root: root.rmdir(), 0.2, DataError, "no such folder"),
        (lambda root: (fill(root / "a", 1), fill(root / "b", 2)), 0.2, DataError, "holds 1 image"),
        (lambda root: None, 0.0, ConfigError, "val_fraction"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, prepare, fraction: float, error: type[AutoTimmError], says: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    prepare(root)
    with pytest.raises(error, match=says):
        read_image_folder(root, fraction)


def test_trashnet(shared: Path) -> None:
    folder = read_image_folder(shared / "data/cls/trashnet6")
    assert folder.class_names == ("cardboard", "glass", "metal", "paper", "plastic", "trash")
    assert (len(folder.train), len(folder.val)) == (480, 150)
