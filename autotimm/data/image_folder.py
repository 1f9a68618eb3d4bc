"""Image folders: one folder a class, split into train and val by folders or by chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from autotimm.data.labelled import ImageFiles, LabelledData, LabelledImages
from autotimm.data.splits import check_fraction, hold_out
from autotimm.runtime.errors import DataError
from autotimm.runtime.images import list_images


@dataclass(frozen=True)
class LabelledImage:
    """One image file and its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class ImageFolder:
    """The images of a data set, sorted by path within each class."""

    class_names: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    """Empty where the root only has a ``val`` folder."""
    val: tuple[LabelledImage, ...]


def read_image_folder(root: str | Path, val_fraction: float = 0.2, seed: int = 0) -> ImageFolder:
    """Read ``root/train/CLASS/*`` and ``root/val/CLASS/*``, or ``root/CLASS/*`` with a part of each class held out.

    Args:
        root: the folder. Classes are its class folders by sorted name; hidden folders are passed over.
        val_fraction: for ``root/CLASS/*``: the part of each class that is for validation, at least one image. With 1
            all of it is.
        seed: of the choice of that part; a class keeps its part when other classes come or go.

    Raises:
        DataError: no such folder, no class folders, a class without images, one class only, a class in ``val`` that
            ``train`` does not have; with names and counts.
    """
    root = Path(root)
    check_fraction(val_fraction)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    train_root, val_root = root / "train", root / "val"
    if train_root.is_dir() and val_root.is_dir():
        return _from_splits(_read_classes(train_root), _read_classes(val_root), val_root)
    if val_root.is_dir():
        classes = _read_classes(val_root)
        return ImageFolder(tuple(classes), (), _labelled(classes, tuple(classes)))
    if train_root.is_dir():
        raise DataError(
            f"{root}: has a folder train but no folder val; add one, or give {train_root} as the root "
            "to have a part of each class held out"
        )
    return _split_by_chance(_read_classes(root), root, val_fraction, seed)


def read_test_folder(root: str | Path, class_names: tuple[str, ...]) -> tuple[LabelledImage, ...] | None:
    """Read ``root/test/CLASS/*`` beside a folder ``train`` or ``val``; None where there is no such folder.

    Raises:
        DataError: no class folders, a class without images, a class that ``class_names`` does not have.
    """
    root = Path(root)
    folder = root / "test"
    if not folder.is_dir() or not ((root / "train").is_dir() or (root / "val").is_dir()):
        return None
    classes = _read_classes(folder)
    _check_known(classes, class_names, folder)
    return _labelled(classes, class_names)


def read_folder_data(root: str | Path, val_fraction: float, seed: int) -> LabelledData:
    """:func:`read_image_folder` and its test split as a data set."""
    folder = read_image_folder(root, val_fraction, seed)
    return LabelledData(
        folder.class_names, _split(folder.train), _split(folder.val), partial(_read_test, root, folder.class_names)
    )


def _read_test(root: str | Path, class_names: tuple[str, ...]) -> LabelledImages | None:
    samples = read_test_folder(root, class_names)
    return None if samples is None else _split(samples)


def _split(samples: tuple[LabelledImage, ...]) -> LabelledImages:
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    return LabelledImages(ImageFiles([sample.path for sample in samples]), labels)


def _read_classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by class name, both sorted."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{folder}: holds no class folders; it should hold one folder of images for each class")
    if {"annotations", "images"} <= {path.name for path in folders}:
        raise DataError(f"{folder}: looks like a COCO data set; a classifier needs one folder of images for each class")
    classes = {path.name: _images(path) for path in folders}
    empty = [name for name, images in classes.items() if not images]
    if empty:
        counts = ", ".join(f"{name} {len(images)}" for name, images in classes.items())
        raise DataError(
            f"{folder}: {len(empty)} of {len(classes)} class folders hold no image: {', '.join(empty)} "
            f"(images found: {counts}); fill or remove them"
        )
    if len(classes) == 1:
        name, images = next(iter(classes.items()))
        raise DataError(
            f"{folder}: holds one class only, {name} with {len(images)} images; a classifier needs at least two, "
            "each in its own folder"
        )
    return classes


def _images(folder: Path) -> list[Path]:
    try:
        return list_images(folder, recursive=True)
    except DataError:  # it holds none: told with the counts of all classes
        return []


def _labelled(classes: dict[str, list[Path]], names: tuple[str, ...]) -> tuple[LabelledImage, ...]:
    index_of = {name: index for index, name in enumerate(names)}
    return tuple(LabelledImage(path, index_of[name]) for name, images in classes.items() for path in images)


def _check_known(classes: dict[str, list[Path]], names: tuple[str, ...], folder: Path) -> None:
    foreign = [f"{name} ({len(images)} images)" for name, images in classes.items() if name not in names]
    if foreign:
        raise DataError(
            f"{folder}: has classes that training does not: {', '.join(foreign)}; "
            f"training has {len(names)}: {', '.join(names)}"
        )


def _from_splits(train: dict[str, list[Path]], val: dict[str, list[Path]], val_root: Path) -> ImageFolder:
    names = tuple(train)
    _check_known(val, names, val_root)
    return ImageFolder(names, _labelled(train, names), _labelled(val, names))


def _split_by_chance(classes: dict[str, list[Path]], root: Path, val_fraction: float, seed: int) -> ImageFolder:
    names = tuple(classes)
    held_out = hold_out(classes, val_fraction, seed, str(root))
    train = {name: [path for path in images if path not in held_out[name]] for name, images in classes.items()}
    val = {name: [path for path in images if path in held_out[name]] for name, images in classes.items()}
    return ImageFolder(names, _labelled(train, names), _labelled(val, names))
