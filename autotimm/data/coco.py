"""COCO JSON annotations: one file a split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotimm.data.bad_annotations import BadAnnotations, Objects, boxed_image
from autotimm.data.boxed import BoxedData
from autotimm.data.instance_masks import read_mask
from autotimm.runtime.errors import DataError

_ANNOTATIONS = (
    "annotations/{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}.json",
    "instances_{split}2017.json",
)
_IMAGES = ("images/{name}", "{name}", "images", ".")


def coco_files(root: Path, split: str) -> list[Path]:
    """Where the annotations of a split may be."""
    return [root / pattern.format(split=split) for pattern in _ANNOTATIONS]


def read_coco(
    annotations: Path,
    images: Path | None = None,
    root: Path | None = None,
    bad: BadAnnotations | None = None,
    *,
    masks: bool = False,
) -> BoxedData:
    """Read one annotation file.

    Args:
        annotations: the JSON file.
        images: the folder that the file names are relative to. Where absent it is ``images/SPLIT``, ``SPLIT``,
            ``SPLIT2017``, ``images`` or the root itself, whichever holds the first image.
        root: of the data set, for finding ``images``; where absent the parent of the folder of ``annotations``.
        bad: what is done about bad annotations; they are refused where absent.
        masks: read the mask of each object as well; one without is bad.

    Raises:
        DataError: the file is missing or no COCO JSON, or has bad annotations that are refused.
    """
    bad = bad or BadAnnotations("refuse")
    content = _read_json(annotations)
    names, ids = _read_categories(content["categories"], annotations)
    rows = _unique(content["images"], bad)
    folder = images if images is not None else _find_images(content["images"], annotations, root)
    index_of = {category: index for index, category in enumerate(ids)}
    rows_of = _group_by_image(content, rows, index_of, bad)
    records = []
    for row in rows:
        path = folder / str(row["file_name"])
        if not path.is_file():
            bad.add(f"images that are not in {folder}", row["file_name"])
            continue
        size = (_whole(row, "height", annotations), _whole(row, "width", annotations))
        objects = _objects(rows_of[row["id"]], index_of, str(row["file_name"]), bad, size if masks else None)
        records.append(boxed_image(path, _whole(row, "id", annotations), size, objects, bad))
    bad.settle(annotations, records)
    records.sort(key=lambda image: image.image_id)  # pycocotools takes them so, which decides between equal scores
    return BoxedData(annotations, names, tuple(ids), tuple(records))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such annotation file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not readable JSON, perhaps cut off ({error})") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(content, key), list)]
    if missing:
        raise DataError(f"{path}: is not a COCO annotation file: it has no list {', '.join(missing)}")
    if not content["images"]:
        raise DataError(f"{path}: lists no images")
    required = {"images": ("id", "file_name", "width", "height"), "annotations": ("image_id", "category_id", "bbox")}
    for kind, keys in required.items():
        for row in content[kind]:
            absent = [key for key in keys if _get(row, key) is None]
            if absent:
                raise DataError(f"{path}: an entry of {kind} has no {', '.join(absent)}: {str(row)[:120]}")
            wrong = [key for key in keys if key in _KEYS and not isinstance(row[key], int | float | str)]
            if wrong:
                raise DataError(f"{path}: {wrong[0]} of an entry of {kind} is no number: {str(row)[:120]}")
    return dict(content)


_KEYS = ("id", "image_id", "category_id")


def _get(row: Any, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else None


def _whole(row: Mapping[str, Any], key: str, path: Path) -> int:
    try:
        return int(row[key])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {key} of image {row['file_name']} is no number, but {row[key]!r}") from error


def _read_categories(rows: Sequence[Mapping[str, Any]], path: Path) -> tuple[tuple[str, ...], list[int]]:
    try:
        pairs = sorted((int(row["id"]), str(row["name"])) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a category has no id or no name ({error!r})") from error
    names = [name for _, name in pairs]
    ids = [category for category, _ in pairs]
    if not pairs:
        raise DataError(f"{path}: lists no categories")
    if len(set(names)) < len(names) or len(set(ids)) < len(ids):
        raise DataError(f"{path}: a category name or id occurs twice: {', '.join(map(str, pairs[:5]))}")
    return tuple(names), ids


def _unique(images: Sequence[Mapping[str, Any]], bad: BadAnnotations) -> list[Mapping[str, Any]]:
    """The images whose id is theirs alone; of an entry that is there twice, the first."""
    counts = Counter(image["id"] for image in images)
    files: dict[Any, set[str]] = {}
    for image in images:
        if counts[image["id"]] > 1:
            files.setdefault(image["id"], set()).add(str(image["file_name"]))
    kept, met = [], set()
    for image in images:
        number = image["id"]
        if number in files and (number in met or len(files[number]) > 1):
            # whose annotations they are is not known where the files differ
            bad.add("entries of images with an id that occurs twice", f"id {number} ({image['file_name']})")
            continue
        met.add(number)
        kept.append(image)
    return kept


def _group_by_image(
    content: Mapping[str, Any], images: Sequence[Mapping[str, Any]], index_of: Mapping[int, int], bad: BadAnnotations
) -> dict[Any, list[Mapping[str, Any]]]:
    rows_of: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    listed = {image["id"] for image in content["images"]}
    for row in content["annotations"]:
        if row["category_id"] not in index_of:
            bad.add("annotations with category ids that are not in categories", row["category_id"])
        elif row["image_id"] not in listed:
            bad.add("annotations of images that are not in images", f"id {row['image_id']}")
        elif row["image_id"] in rows_of:
            rows_of[row["image_id"]].append(row)
    return rows_of


def _objects(
    rows: Sequence[Mapping[str, Any]],
    index_of: Mapping[int, int],
    name: str,
    bad: BadAnnotations,
    mask_size: tuple[int, int] | None,
) -> Objects:
    """The objects of an image of this name; with masks where their ``(height, width)`` is given."""
    usable, corners, masks = [], [], []
    for row in rows:
        try:
            x, y, width, height = (float(number) for number in row["bbox"])
        except (TypeError, ValueError, OverflowError):
            bad.add("boxes that are not four numbers", f"{name} ({str(row['bbox'])[:40]})")
            continue
        if mask_size is not None:
            mask = read_mask(row, mask_size, name, bad)
            if mask is None:
                continue
            masks.append(mask)
        corners.append((x, y, x + width, y + height))
        usable.append(row)
    return Objects(
        boxes=np.array(corners, dtype=np.float64).reshape(-1, 4),
        labels=np.array([index_of[row["category_id"]] for row in usable], dtype=np.int64),
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in usable], dtype=np.bool_),
        area=np.array([_area(row) for row in usable], dtype=np.float64),
        masks=tuple(masks),
    )


def _area(row: Mapping[str, Any]) -> float:
    area = row.get("area")
    return float(area) if isinstance(area, int | float) else -1.0


def _find_images(images: Sequence[Mapping[str, Any]], annotations: Path, root: Path | None) -> Path:
    """The folder that holds the first image that is found; else the first folder that is there, to be named."""
    root = root if root is not None else annotations.parent.parent
    name = annotations.stem.removeprefix("instances_")
    folders = [root / pattern.format(name=name) for pattern in _IMAGES]
    for image in images[:8]:  # the first may be missing
        for folder in folders:
            if (folder / str(image["file_name"])).is_file():
                return folder
    return next(folder for folder in [*folders, root] if folder.is_dir() or folder == root)
