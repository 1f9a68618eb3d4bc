"""Data sets in CSV files: training, validation and test from one file each, or a part held out."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.data.labelled import ImageFiles, LabelledData, LabelledImages
from autotimm.data.splits import hold_out, iterative_stratification
from autotimm.data.tables import (
    LabelColumns,
    Table,
    check_known,
    find_table,
    image_paths,
    needed_columns,
    read_labels,
    read_multi_labels,
    read_table,
    sorted_names,
)
from autotimm.runtime.errors import ConfigError, DataError, DataWarning


def read_single_label_data(
    root: Path,
    files: Mapping[str, str | Path | None],
    image_column: str,
    label_column: str,
    val_fraction: float,
    seed: int,
) -> LabelledData:
    """Data of one class an image.

    Args:
        root: where the image paths of the files start.
        files: the CSV file of ``train``; of ``val``, otherwise a part of each class is held out; of ``test``.
        image_column: of the paths.
        label_column: of the class names.
        val_fraction: the part.
        seed: of its choice.

    Raises:
        DataError: a file cannot be used, names missing images or classes that training lacks, or there is one class.
    """
    train = _read(root, files["train"], [image_column, label_column])
    names = read_labels(train, label_column)
    paths = image_paths(train, image_column, root)
    class_names = sorted_names(names)
    if len(class_names) == 1:
        raise DataError(
            f"{train.file}: holds one class only, {class_names[0]} with {len(names)} rows; a classifier needs two"
        )
    _check_duplicates(train, paths, names)
    labels = _indices(names, class_names)
    read = partial(_read_single, root, image_column, label_column, class_names)
    if files["val"] is not None:
        return _data(class_names, paths, labels, read(files["val"]), partial(_if_given, read, files["test"]))
    classes: dict[str, list[Path]] = {name: [] for name in class_names}
    for path, name in dict.fromkeys(zip(paths, names, strict=True)):
        classes[name].append(path)
    held_out = set().union(*hold_out(classes, val_fraction, seed, str(train.file)).values())
    mask = np.array([path in held_out for path in paths])
    return _data(class_names, paths, labels, mask, partial(_if_given, read, files["test"]))


def read_multi_label_data(
    root: Path, files: Mapping[str, str | Path | None], layout: LabelColumns, val_fraction: float, seed: int
) -> LabelledData:
    """Data of any number of classes an image; the arguments are those of :func:`read_single_label_data`.

    Raises:
        DataError: a file cannot be used, names missing images or classes that training lacks, or holds no labels.
    """
    train = _read(root, files["train"], needed_columns(layout))
    class_names, labels = read_multi_labels(train, layout)
    paths = image_paths(train, layout.image, root)
    _check_duplicates(train, paths, [row.tobytes() for row in labels])
    never = [name for name, count in zip(class_names, labels.sum(axis=0), strict=True) if count == 0]
    if len(never) == len(class_names):
        raise DataError(f"{train.file}: no image has any of its {len(class_names)} classes")
    if never:
        warnings.warn(
            f"{train.file}: no image has the class {', '.join(never[:8])} ({len(never)} of {len(class_names)} "
            "classes); it cannot be learned",
            DataWarning,
            stacklevel=2,
        )
    read = partial(_read_multi, root, layout, class_names)
    if files["val"] is not None:
        return _data(class_names, paths, labels, read(files["val"]), partial(_if_given, read, files["test"]))
    first = {path: index for index, path in reversed(list(enumerate(paths)))}
    unique = sorted(first.values())
    held_out = iterative_stratification(labels[unique], val_fraction, seed)
    if val_fraction < 1.0 and (held_out.all() or not held_out.any()):
        raise DataError(
            f"{train.file}: {len(unique)} images cannot be parted into training and validation with "
            f"val_fraction={val_fraction}; give a val_csv"
        )
    chosen = {paths[index] for index, held in zip(unique, held_out, strict=True) if held}
    mask = np.array([path in chosen for path in paths])
    return _data(class_names, paths, labels, mask, partial(_if_given, read, files["test"]))


def _data(
    class_names: tuple[str, ...],
    paths: list[Path],
    labels: NDArray[np.int64] | NDArray[np.float32],
    val: LabelledImages | NDArray[np.bool_],
    read_test: Callable[[], LabelledImages | None],
) -> LabelledData:
    if isinstance(val, LabelledImages):
        return LabelledData(class_names, LabelledImages(ImageFiles(paths), labels), val, read_test)
    parts = [
        LabelledImages(ImageFiles([path for path, here in zip(paths, side, strict=True) if here]), labels[side])
        for side in (~val, val)
    ]
    return LabelledData(class_names, parts[0], parts[1], read_test)


def _if_given(read: Callable[[str | Path], LabelledImages], file: str | Path | None) -> LabelledImages | None:
    return None if file is None else read(file)


def _read_single(
    root: Path, image_column: str, label_column: str, class_names: tuple[str, ...], file: str | Path
) -> LabelledImages:
    table = _read(root, file, [image_column, label_column])
    names = read_labels(table, label_column)
    check_known(Counter(names), class_names, table.file)
    return LabelledImages(ImageFiles(image_paths(table, image_column, root)), _indices(names, class_names))


def _read_multi(root: Path, layout: LabelColumns, class_names: tuple[str, ...], file: str | Path) -> LabelledImages:
    table = _read(root, file, needed_columns(layout))
    _, labels = read_multi_labels(table, layout, class_names)
    return LabelledImages(ImageFiles(image_paths(table, layout.image, root)), labels)


def _read(root: Path, file: str | Path | None, needed: Iterable[str]) -> Table:
    if file is None:
        raise ConfigError("there is no train_csv; it names the images to train on")
    return read_table(find_table(root, file), needed)


def _indices(names: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    index_of = {name: index for index, name in enumerate(class_names)}
    return np.array([index_of[name] for name in names], dtype=np.int64)


def _check_duplicates(table: Table, paths: Sequence[Path], labels: Sequence[str | bytes]) -> None:
    """An image may occur twice, but not with other labels."""
    first: dict[Path, tuple[str | bytes, int]] = {}
    for path, label, line in zip(paths, labels, table.lines, strict=True):
        known, at = first.setdefault(path, (label, line))
        if known != label:
            raise DataError(
                f"{table.file}: {path} has other labels in line {line} than in line {at}; for several classes an image "
                "use MultiLabelImageDataModule, with one row for each image"
            )
