"""Boxes in YOLO's text files: one beside each image, with a row ``class cx cy w h`` a box, over the image's size.

An image without a file, or with an empty one, has no objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotimm.data.bad_annotations import BadAnnotations, Objects, boxed_image
from autotimm.data.boxed import BoxedData
from autotimm.runtime.errors import DataError, ImageError, one_line
from autotimm.runtime.images import EXTENSIONS, image_size

_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "labels/classes.txt", "obj.names")


def yolo_folders(root: Path, split: str) -> list[Path]:
    """Where the text files of a split may be."""
    return [root / "labels" / split, root / split / "labels"]


def yolo_names_files(root: Path) -> list[Path]:
    """Where the class names may be."""
    return [root / name for name in _NAMES]


def read_yolo(
    root: Path, split: str, bad: BadAnnotations, *, names_file: Path | None = None, images: Path | None = None
) -> BoxedData:
    """Read one split.

    Args:
        root: of the data set.
        split: ``images/SPLIT`` with ``labels/SPLIT``, ``SPLIT/images`` with ``SPLIT/labels``, or whatever ``data.yaml``
            calls so.
        bad: what is done about bad annotations.
        names_file: ``data.yaml``, or a text file with one class name a line; looked for where absent.
        images: the folder of the images. The text files are where the last ``images`` in its path is ``labels``.

    Raises:
        DataError: class names or folders are missing, or there are bad annotations that are refused.
    """
    names_file = names_file if names_file is not None else _find_names(root)
    names, folders = _read_names(names_file)
    folder = images if images is not None else _find_images(root, split, folders)
    labels = _labels_of(folder)
    if not labels.is_dir():
        raise DataError(f"{labels}: there is no such folder of YOLO text files, which should belong to {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not paths:
        raise DataError(f"{folder}: holds no images")
    index_of = {number: index for index, number in enumerate(names)}
    records, used = [], set()
    for number, path in enumerate(paths):
        text = (labels / path.relative_to(folder)).with_suffix(".txt")
        used.add(text)
        try:
            size = image_size(path)
        except ImageError as error:
            bad.add("images that cannot be read", error)
            continue
        try:
            rows = text.read_text(encoding="utf-8-sig").splitlines() if text.is_file() else []
        except (OSError, UnicodeError) as error:
            bad.add("text files that cannot be read", f"{text.name} ({one_line(error)})")
            continue
        records.append(boxed_image(path, number, size, _objects(rows, size, index_of, text.name, bad), bad))
    for text in sorted(labels.rglob("*.txt")):
        if text not in used and text.name != "classes.txt":
            bad.add(f"text files whose images are not in {folder}", text.name)
    bad.settle(labels, records)
    return BoxedData(labels, tuple(names.values()), tuple(names), tuple(records))


def _find_names(root: Path) -> Path:
    candidates = yolo_names_files(root)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"{root}: found no class names: looked for {', '.join(str(file) for file in candidates)}")


def _read_names(file: Path) -> tuple[dict[int, str], Mapping[str, Any]]:
    """The name of each class number, and what else a YAML file says."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read as a file of class names ({one_line(error)})") from error
    if file.suffix.lower() not in (".yaml", ".yml"):
        names: Any = [line.strip() for line in text.splitlines() if line.strip()]
        content: Mapping[str, Any] = {}
    else:
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise DataError(f"{file}: is not YAML ({one_line(error)})") from error
        names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names or not all(isinstance(number, int) for number in names):
        raise DataError(f"{file}: has no class names: it should hold names, a list or a name for each number")
    ordered = {number: str(names[number]) for number in sorted(names)}
    if len(set(ordered.values())) < len(ordered):
        raise DataError(f"{file}: a class name occurs twice")
    return ordered, content


def _find_images(root: Path, split: str, folders: Mapping[str, Any]) -> Path:
    """The folder of a split: what the YAML file calls so, taken from the root whatever path it was written for."""
    candidates = [root / "images" / split, root / split / "images"]
    value = folders.get(split)
    if isinstance(value, str):
        inside = Path(*[part for part in Path(value).parts if part not in ("..", ".", "/")])
        base = folders.get("path")
        candidates += [root / value, root / inside, *([root / base / value] if isinstance(base, str) else [])]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DataError(
        f"{root}: found no images of the {split} split: looked for {', '.join(str(folder) for folder in candidates)}; "
        f"give the folder as {split}_images (evaluate: --images)"
    )


def _labels_of(folder: Path) -> Path:
    """The folder of text files: where the last ``images`` of the path is ``labels``; the same where there is none."""
    parts = list(folder.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :])
    return folder


def _objects(
    rows: Sequence[str], size: tuple[int, int], index_of: Mapping[int, int], name: str, bad: BadAnnotations
) -> Objects:
    boxes, labels = [], []
    for line, row in enumerate(rows, 1):
        cells = row.split()
        if not cells:
            continue
        try:
            number, x, y, width, height = (float(cell) for cell in cells)
        except ValueError:
            bad.add("rows that are not a class and four numbers", f"{name} line {line}")
            continue
        if number not in index_of:
            bad.add("boxes of class numbers without a name", f"{cells[0]} ({name} line {line})")
            continue
        boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        labels.append(index_of[int(number)])
    scale = np.array([size[1], size[0], size[1], size[0]], dtype=np.float64)
    return Objects(np.array(boxes, dtype=np.float64).reshape(-1, 4) * scale, np.array(labels, dtype=np.int64))
