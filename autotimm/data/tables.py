"""CSV files of image paths and labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ConfigError, DataError

IMAGE_COLUMN = "image"
LABEL_COLUMN = "label"
SEPARATOR = "|"
"""Between the names in one cell of multi-label data."""


@dataclass(frozen=True)
class Table:
    """The rows of one CSV file."""

    file: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    """Cells by column, without spaces around them."""
    lines: tuple[int, ...]
    """Where in the file each row ends, for messages."""


@dataclass(frozen=True)
class LabelColumns:
    """How a table says which of several classes an image has: a column of 0 and 1 for each, or one of names.

    With neither given, every column but that of the image is one of 0 and 1.

    Raises:
        ConfigError: both are given, or one of them is empty.
    """

    image: str = IMAGE_COLUMN
    columns: tuple[str, ...] | None = None
    names: str | None = None
    separator: str = SEPARATOR

    def __post_init__(self) -> None:
        if self.columns is not None and self.names is not None:
            raise ConfigError("give label_columns (of 0 and 1) or label_column (of names), not both")
        if self.columns is not None and (not self.columns or self.image in self.columns):
            raise ConfigError(f"label_columns is {list(self.columns)}, but must name columns other than {self.image!r}")
        if not self.separator:
            raise ConfigError("label_separator is empty, but must be what parts the names in a cell")


def find_table(root: Path, file: str | Path) -> Path:
    """A CSV file as it was named: from the working directory, else from the folder of the data.

    Raises:
        DataError: it is in neither.
    """
    candidates = list(dict.fromkeys((Path(file), root / file)))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"there is no such CSV file: {' or '.join(map(str, candidates))}")


def read_table(file: Path, needed: Iterable[str]) -> Table:
    """Read a CSV file with a header, parted by commas, semicolons or tabs.

    Args:
        file: in UTF-8, with or without a byte order mark.
        needed: columns that must be there.

    Raises:
        DataError: it cannot be read, has no rows, lacks a column, or has a row of another length.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = lines.readline()
            lines.seek(0)
            reader = csv.reader(lines, delimiter=max(",;\t", key=header.count), strict=True)
            numbered = [([cell.strip() for cell in row], reader.line_num) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{file}: is not a readable CSV file in UTF-8 ({error})") from error
    if not numbered:
        raise DataError(f"{file}: is empty; its first line should name the columns")
    (columns, _), *body = numbered
    missing = [name for name in needed if name not in columns]
    if missing:
        raise DataError(
            f"{file}: has no column {', '.join(map(repr, missing))}; its columns are {', '.join(columns)}: "
            "name them in the header, or say which ones to take"
        )
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{file}: its header names {', '.join(map(repr, twice[:8]))} more than once")
    if not body:
        raise DataError(f"{file}: has a header but no rows")
    uneven = [line for row, line in body if len(row) != len(columns)]
    if uneven:
        raise DataError(
            f"{file}: {len(uneven)} rows have not the {len(columns)} cells of the header: {_lines(uneven)}; "
            "a cell with the delimiter in it needs quotes"
        )
    rows = tuple(dict(zip(columns, row, strict=True)) for row, _ in body)
    return Table(file, tuple(columns), rows, tuple(line for _, line in body))


def image_paths(table: Table, column: str, root: Path) -> list[Path]:
    """The path of each row's image, relative ones from ``root``.

    Raises:
        DataError: cells are empty, or files missing; with their number.
    """
    empty = [line for row, line in zip(table.rows, table.lines, strict=True) if not row[column]]
    if empty:
        raise DataError(f"{table.file}: {len(empty)} rows name no image in column {column!r}: {_lines(empty)}")
    paths = [root / row[column] for row in table.rows]
    missing = [path for path in dict.fromkeys(paths) if not path.is_file()]
    if missing:
        raise DataError(
            f"{table.file}: {len(missing)} of {len(set(paths))} images are not there: "
            f"{', '.join(map(str, missing[:4]))}{', ...' if len(missing) > 4 else ''}; the paths in the file are "
            f"taken from {root}"
        )
    return paths


def read_labels(table: Table, column: str) -> list[str]:
    """The class of each row.

    Raises:
        DataError: cells are empty.
    """
    empty = [line for row, line in zip(table.rows, table.lines, strict=True) if not row[column]]
    if empty:
        raise DataError(f"{table.file}: {len(empty)} rows have no class in column {column!r}: {_lines(empty)}")
    return [row[column] for row in table.rows]


def read_multi_labels(
    table: Table, layout: LabelColumns, class_names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """The classes of each row.

    Args:
        table: with the columns that ``layout`` names.
        layout: which columns say it.
        class_names: the classes and their order; those of the table where absent.

    Returns:
        The class names, and 0 or 1 ``[N, C]``.

    Raises:
        DataError: a cell is not 0 or 1, there are no label columns, or there are classes that ``class_names`` lacks.
    """
    if layout.names is not None:
        return _from_names(table, layout.names, layout.separator, class_names)
    columns = layout.columns or tuple(name for name in table.columns if name not in (layout.image, ""))
    if not columns:
        raise DataError(f"{table.file}: has no column but {layout.image!r}, so no labels")
    if class_names is not None:
        check_known({name: len(table.rows) for name in columns}, class_names, table.file)
        absent = [name for name in class_names if name not in columns]
        if absent:
            raise DataError(f"{table.file}: has no column for {', '.join(absent[:8])} ({len(absent)} classes)")
        columns = tuple(class_names)
    labels = np.zeros((len(table.rows), len(columns)), dtype=np.float32)
    for index, name in enumerate(columns):
        cells = [row[name] for row in table.rows]
        bad = [(cell, line) for cell, line in zip(cells, table.lines, strict=True) if cell not in _BINARY]
        if bad:
            raise DataError(
                f"{table.file}: {len(bad)} cells of column {name!r} are not 0 or 1, the first is {bad[0][0]!r} "
                f"({_lines([line for _, line in bad])}); give label_columns if it holds no labels, or label_column if "
                "it holds names"
            )
        labels[:, index] = [_BINARY[cell] for cell in cells]
    return columns, labels


_BINARY = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


def _from_names(
    table: Table, column: str, separator: str, class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    cells = [[name.strip() for name in row[column].split(separator) if name.strip()] for row in table.rows]
    found = Counter(name for names in cells for name in set(names))
    if not found:
        raise DataError(f"{table.file}: column {column!r} names no class in any row")
    if class_names is None:
        class_names = sorted_names(found)
    check_known(found, class_names, table.file)
    index_of = {name: index for index, name in enumerate(class_names)}
    labels = np.zeros((len(cells), len(class_names)), dtype=np.float32)
    for row, names in enumerate(cells):
        labels[row, [index_of[name] for name in names]] = 1.0
    return tuple(class_names), labels


def needed_columns(layout: LabelColumns) -> list[str]:
    """The columns that a multi-label table must have."""
    return [layout.image, *(layout.columns or ()), *([layout.names] if layout.names is not None else [])]


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in order, whole numbers by their value."""
    unique = set(names)
    if all(name.isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def check_known(counts: Mapping[str, int], class_names: Sequence[str], file: Path) -> None:
    """Refuse classes that training does not have.

    Raises:
        DataError: naming them, with the number of their rows.
    """
    known = set(class_names)
    foreign = [f"{name} ({counts[name]} rows)" for name in counts if name not in known]
    if foreign:
        raise DataError(
            f"{file}: has {len(foreign)} classes that training does not: {', '.join(foreign[:8])}; "
            f"training has {len(class_names)}: {', '.join(class_names[:8])}{', ...' if len(class_names) > 8 else ''}"
        )


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:5]))
    return f"line{'s' if len(lines) > 1 else ''} {shown}{', ...' if len(lines) > 5 else ''}"
