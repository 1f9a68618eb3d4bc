"""Boxes in a CSV file: one row a box, and a row with empty box cells for an image without any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotimm.data.bad_annotations import BadAnnotations, Objects, boxed_image
from autotimm.data.boxed import BoxedData
from autotimm.data.tables import IMAGE_COLUMN, LABEL_COLUMN, Table, find_table, read_table, sorted_names
from autotimm.runtime.errors import ConfigError, DataError, ImageError
from autotimm.runtime.images import image_size

_FILES = ("{split}.csv", "annotations/{split}.csv")
_IMAGES = ("", "images/{name}", "{name}", "images")


@dataclass(frozen=True)
class BoxColumns:
    """Which columns of a CSV file say what.

    Raises:
        ConfigError: there are not four columns of a box.
    """

    image: str = IMAGE_COLUMN
    box: Sequence[str] = ("xmin", "ymin", "xmax", "ymax")
    """In source pixels, the outer edges of the box: an object over all of a 40 x 30 image is 0, 0, 40, 30."""
    label: str = LABEL_COLUMN

    def __post_init__(self) -> None:
        if isinstance(self.box, str) or len(self.box) != 4:
            raise ConfigError(f"box_columns is {self.box!r}, but must name the four columns of xmin, ymin, xmax, ymax")

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [self.image, *self.box, self.label]


def csv_files(root: Path, split: str) -> list[Path]:
    """Where the annotations of a split may be."""
    return [root / pattern.format(split=split) for pattern in _FILES]


def is_box_csv(file: Path, columns: BoxColumns) -> bool:
    """Whether a file is a table with these columns."""
    try:
        read_table(file, columns.names)
    except DataError:
        return False
    return True


def read_box_csv(
    file: Path,
    root: Path,
    bad: BadAnnotations,
    *,
    images: Path | None = None,
    columns: BoxColumns | None = None,
    class_names: Sequence[str] | None = None,
) -> BoxedData:
    """Read one file.

    Args:
        file: the CSV file.
        root: of the data set.
        bad: what is done about bad annotations.
        images: the folder that the paths in the file are relative to. Where absent it is that of the file, the root,
            ``images/SPLIT``, ``SPLIT`` or ``images``, whichever holds the first image.
        columns: which ones say what.
        class_names: the classes and their order; those of the file, sorted, where absent.

    Raises:
        DataError: the file is missing or no such table, or has bad annotations that are refused.
    """
    columns = columns or BoxColumns()
    table = read_table(find_table(root, file), columns.names)
    rows_of: dict[str, list[tuple[Mapping[str, str], int]]] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        if not row[columns.image]:
            bad.add(f"rows that name no image in column {columns.image!r}", f"line {line}")
            continue
        boxes = rows_of.setdefault(row[columns.image], [])
        if any(row[name] for name in columns.box):
            boxes.append((row, line))
    folder = images if images is not None else _find_images(list(rows_of), table, root)
    if class_names is None:
        class_names = sorted_names(
            row[columns.label] for rows in rows_of.values() for row, _ in rows if row[columns.label]
        )
        if not class_names:
            raise DataError(f"{table.file}: no row names a class in column {columns.label!r}")
    index_of = {name: index for index, name in enumerate(class_names)}
    records = []
    for number, (name, rows) in enumerate(rows_of.items()):
        path = folder / name
        if not path.is_file():
            bad.add(f"images that are not in {folder}", name)
            continue
        try:
            size = image_size(path)
        except ImageError as error:
            bad.add("images that cannot be read", error)
            continue
        records.append(boxed_image(path, number, size, _objects(rows, columns, index_of, bad), bad, name))
    bad.settle(table.file, records)
    return BoxedData(table.file, tuple(class_names), tuple(range(len(class_names))), tuple(records))


def _objects(
    rows: Sequence[tuple[Mapping[str, str], int]],
    columns: BoxColumns,
    index_of: Mapping[str, int],
    bad: BadAnnotations,
) -> Objects:
    boxes, labels = [], []
    for row, line in rows:
        label = row[columns.label]
        if not label:
            bad.add(f"boxes without a class in column {columns.label!r}", f"line {line}")
        elif label not in index_of:
            bad.add("boxes of classes that are not known", f"{label} (line {line})")
        else:
            try:
                boxes.append([float(row[name]) if row[name] else math.nan for name in columns.box])
            except ValueError:
                bad.add("boxes that are not four numbers", f"line {line}")
            else:
                labels.append(index_of[label])
    return Objects(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(labels, dtype=np.int64))


def _find_images(names: Sequence[str], table: Table, root: Path) -> Path:
    """The folder that holds an image of the first ones; the file's own, to be named, where none does."""
    folders = [table.file.parent, *(root / pattern.format(name=table.file.stem) for pattern in _IMAGES)]
    for name in names[:8]:
        for folder in folders:
            if (folder / name).is_file():
                return folder
    return folders[0]
