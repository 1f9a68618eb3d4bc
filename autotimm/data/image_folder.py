# LEAD'S NOTE, 16:37: an accident of mine put this file back to its state in git (HEAD), and an uncommitted edit of yours is lost if you had one. Sorry. Please write your version again from what you remember (your own new files were not touched), commit at once, and remove this note. Files concerned: data/{__init__,loading,module,classification,detection,transforms,image_folder}.py, optim/{optimizers,schedulers}.py, models/backbones.py
"""Image folders: one folder a class, split into train and val by folders or by chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from autotimm.runtime.errors import ConfigError, DataError
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
    if not 0.0 < val_fraction <= 1.0:
        raise ConfigError(f"val_fraction is {val_fraction}, but must be in (0, 1]")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    train_root, val_root = root / "train", root / "val"
    if train_root.is_dir() and val_root.is_dir():
        return _from_splits(_read_classes(train_root), _read_classes(val_root), train_root, val_root)
    if val_root.is_dir():
        classes = _read_classes(val_root)
        return ImageFolder(tuple(classes), (), _labelled(classes, tuple(classes)))
    if train_root.is_dir():
        raise DataError(
            f"{root}: has a folder train but no folder val; add one, or give {train_root} as the root "
            "to have a part of each class held out"
        )
    return _split_by_chance(_read_classes(root), root, val_fraction, seed)


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
    return tuple(LabelledImage(path, names.index(name)) for name, images in classes.items() for path in images)


def _from_splits(
    train: dict[str, list[Path]], val: dict[str, list[Path]], train_root: Path, val_root: Path
) -> ImageFolder:
    foreign = [f"{name} ({len(val[name])} images)" for name in val if name not in train]
    if foreign:
        raise DataError(
            f"{val_root}: has classes that {train_root} does not: {', '.join(foreign)}; "
            f"training has {len(train)}: {', '.join(train)}"
        )
    names = tuple(train)
    return ImageFolder(names, _labelled(train, names), _labelled(val, names))


def _split_by_chance(classes: dict[str, list[Path]], root: Path, val_fraction: float, seed: int) -> ImageFolder:
    names = tuple(classes)
    train: dict[str, list[Path]] = {}
    val: dict[str, list[Path]] = {}
    for name, images in classes.items():
        if val_fraction < 1.0 and len(images) < 2:
            raise DataError(f"{root / name}: holds 1 image, but needs one for training and one for validation")
        count = len(images) if val_fraction == 1.0 else min(max(1, round(len(images) * val_fraction)), len(images) - 1)
        held_out = set(random.Random(f"{seed}/{name}").sample(images, count))
        train[name] = [path for path in images if path not in held_out]
        val[name] = [path for path in images if path in held_out]
    return ImageFolder(names, _labelled(train, names), _labelled(val, names))
