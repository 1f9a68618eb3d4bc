"""Which format the boxes of a data set are in, by what is there, and reading them whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.box_csv import BoxColumns, csv_files, is_box_csv, read_box_csv
from autotimm.data.boxed import BoxedData
from autotimm.data.coco import coco_files, read_coco
from autotimm.data.tables import read_table
from autotimm.data.voc import read_voc, voc_files
from autotimm.data.yolo_txt import read_yolo, yolo_folders, yolo_names_files
from autotimm.runtime.errors import ConfigError, DataError

BoxFormat = Literal["coco", "csv", "voc", "yolo"]

_BY_ENDING: dict[str, BoxFormat] = {
    ".json": "coco",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "voc",
    ".yaml": "yolo",
    ".yml": "yolo",
    ".names": "yolo",
}
NAMED_BY_OBJECTS: tuple[BoxFormat, ...] = ("csv", "voc")
"""Formats without a list of classes: those of the training are the ones that there are."""


def check_box_format(name: str) -> BoxFormat | None:
    """The format itself; None for ``auto``.

    Raises:
        ConfigError: no such format.
    """
    for known in get_args(BoxFormat):
        if name == known:
            return known  # type: ignore[no-any-return]
    if name != "auto":
        raise ConfigError.unknown("format of boxes", name, ("auto", *get_args(BoxFormat)))
    return None


def formats_there(root: Path, split: str, columns: BoxColumns | None = None) -> dict[BoxFormat, Path]:
    """The formats that a split is there in, and the file or folder by which each is seen."""
    there: dict[BoxFormat, Path] = {}
    for name, candidates in _candidates(root, split).items():
        for candidate in candidates:
            if candidate.exists():
                if name == "csv" and not is_box_csv(candidate, columns or BoxColumns()):
                    continue
                there[name] = candidate
                break
    return there


def _candidates(root: Path, split: str) -> dict[BoxFormat, list[Path]]:
    return {
        "coco": coco_files(root, split),
        "csv": csv_files(root, split),
        "voc": voc_files(root, split),
        "yolo": [*yolo_folders(root, split), *(file for file in yolo_names_files(root) if file.suffix in _YAML)],
    }


_YAML = (".yaml", ".yml")


def find_format(
    root: Path, split: str, annotations: Path | None = None, columns: BoxColumns | None = None
) -> BoxFormat:
    """The format of a split.

    Args:
        root: of the data set.
        split: its name.
        annotations: a file that was named; its ending says it.
        columns: of CSV files.

    Raises:
        DataError: nothing is there.
        ConfigError: more than one is.
    """
    if annotations is not None:
        ending = annotations.suffix.lower()
        if ending not in _BY_ENDING:
            raise ConfigError(
                f"{annotations}: its ending does not say which format it is in "
                f"({', '.join(_BY_ENDING)} would): give format, one of {', '.join(get_args(BoxFormat))}"
            )
        return _BY_ENDING[ending]
    there = formats_there(root, split, columns)
    if len(there) > 1:
        seen = ", ".join(f"{name} ({file})" for name, file in there.items())
        raise ConfigError(
            f"{root}: the {split} split is there in several formats: {seen}; say which: format={min(there)!r}"
        )
    if not there:
        for file in csv_files(root, split):
            if file.is_file():  # says what it lacks
                read_table(file, (columns or BoxColumns()).names)
        looked = "; ".join(
            f"{name}: {' or '.join(map(str, files))}" for name, files in _candidates(root, split).items()
        )
        raise DataError(
            f"{root}: found no annotations of the {split} split: looked for {looked}; give the file as "
            f"{split}_annotations (evaluate: --annotations), or choose another split"
        )
    return next(iter(there))


def read_boxed(
    root: Path,
    split: str,
    *,
    format: BoxFormat | None = None,  # noqa: A002 - as the argument of the data module
    annotations: Path | None = None,
    images: Path | None = None,
    columns: BoxColumns | None = None,
    bad_annotations: str = "refuse",
    class_names: Sequence[str] | None = None,
    masks: bool = False,
) -> BoxedData:
    """Read one split in whatever format it is.

    Args:
        root: of the data set.
        split: its name.
        format: that of the boxes; recognised where absent.
        annotations: the file, where it is not in its usual place: COCO's JSON, the CSV file, VOC's list of images,
            or YOLO's file of class names.
        images: the folder of the images, where it is not in its usual place.
        columns: of a CSV file.
        bad_annotations: ``refuse`` or ``skip``.
        class_names: for formats that have no list of them, the classes and their order.
        masks: COCO: read the masks of the objects as well.

    Raises:
        DataError: it is missing or cannot be read, or has bad annotations that are refused.
        ConfigError: its format cannot be told.
    """
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    kind = format or find_format(root, split, annotations, columns)
    bad = BadAnnotations(bad_annotations)
    if kind == "yolo":
        return read_yolo(root, split, bad, names_file=annotations, images=images)
    file = annotations if annotations is not None else _existing(root, split, kind)
    if kind == "coco":
        return read_coco(file, images, root, bad, masks=masks)
    if kind == "csv":
        return read_box_csv(file, root, bad, images=images, columns=columns, class_names=class_names)
    return read_voc(file, root, bad, images=images, class_names=class_names)


def _existing(root: Path, split: str, kind: BoxFormat) -> Path:
    candidates = _candidates(root, split)[kind]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{root}: found no {kind} annotations of the {split} split: looked for {' and '.join(map(str, candidates))}; "
        f"give the file as {split}_annotations (evaluate: --annotations), or choose another split"
    )
