"""COCO JSON annotations to frozen records: one image, its boxes and its classes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import DataError

logger = logging.getLogger(__name__)

_ANNOTATIONS = ("annotations/{split}.json", "annotations/instances_{split}2017.json")
_IMAGES = ("images/{name}", "{name}", "images", ".")


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One annotated image. Boxes are in source pixels, clipped to the image; crowds are among them."""

    path: Path
    image_id: int
    size: tuple[int, int]
    """``(height, width)`` as the annotation file has it."""
    boxes: NDArray[np.float32]
    """``[n, 4]`` xyxy."""
    labels: NDArray[np.int64]
    """``[n]`` class indices."""
    crowd: NDArray[np.bool_]
    """``[n]``: COCO's ``iscrowd``."""
    area: NDArray[np.float32]
    """``[n]``: the annotated area, the box's where there is none."""


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """The images of one annotation file, in the order of the file; those without objects are kept."""

    class_names: tuple[str, ...]
    """In the order of the category ids."""
    category_ids: tuple[int, ...]
    """The COCO id of each class, for writing results."""
    images: tuple[CocoImage, ...]


def find_annotations(root: Path, split: str) -> Path:
    """The annotation file of a split: ``annotations/SPLIT.json`` or ``annotations/instances_SPLIT2017.json``.

    Raises:
        DataError: neither is there.
    """
    candidates = [root / pattern.format(split=split) for pattern in _ANNOTATIONS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"{root}: found no annotations of the {split} split: looked for {' and '.join(map(str, candidates))}; "
        f"give the file as {split}_annotations (evaluate: --annotations), or choose another split"
    )


def read_coco(annotations: Path, images: Path | None = None, root: Path | None = None) -> CocoDataset:
    """Read one annotation file.

    Args:
        annotations: the JSON file.
        images: the folder that the file names are relative to. Where absent it is ``images/SPLIT``, ``SPLIT``,
            ``SPLIT2017``, ``images`` or the root itself, whichever holds the first image.
        root: of the data set, for finding ``images``; where absent the parent of the folder of ``annotations``.

    Raises:
        DataError: the file is missing or no COCO JSON, or names images, categories or boxes that cannot be used.
    """
    content = _read_json(annotations)
    names, ids = _read_categories(content["categories"], annotations)
    folder = images if images is not None else _find_images(content["images"], annotations, root)
    rows_of = _group_by_image(content, ids, annotations)
    records, dropped = [], 0
    for image in content["images"]:
        rows = rows_of[image["id"]]
        record = _record(image, rows, folder, ids, annotations)
        dropped += len(rows) - len(record.labels)
        records.append(record)
    _check_files(records, folder, annotations)
    if dropped:
        logger.warning("%s: dropped %d boxes without a positive area inside their image", annotations, dropped)
    return CocoDataset(names, tuple(ids), tuple(records))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such annotation file") from error
    except (OSError, ValueError) as error:
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
    return dict(content)


def _get(row: Any, key: str) -> Any:
    return row.get(key) if isinstance(row, Mapping) else None


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
        raise DataError(f"{path}: a category name or id occurs twice: {_some(pairs)}")
    return tuple(names), ids


def _group_by_image(content: Mapping[str, Any], ids: Sequence[int], path: Path) -> dict[int, list[Mapping[str, Any]]]:
    rows_of: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    if len(rows_of) != len(content["images"]):
        raise DataError(f"{path}: {len(content['images']) - len(rows_of)} image ids occur twice")
    unknown = sorted({row["category_id"] for row in content["annotations"]} - set(ids))
    if unknown:
        count = sum(row["category_id"] in unknown for row in content["annotations"])
        raise DataError(f"{path}: {count} annotations have category ids that are not in categories: {_some(unknown)}")
    strangers = sorted({row["image_id"] for row in content["annotations"]} - set(rows_of))
    if strangers:
        raise DataError(f"{path}: annotations of images that are not in images: ids {_some(strangers)}")
    for row in content["annotations"]:
        rows_of[row["image_id"]].append(row)
    return rows_of


def _record(
    image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path, ids: Sequence[int], path: Path
) -> CocoImage:
    height, width = int(image["height"]), int(image["width"])
    try:
        corners = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(len(rows), 4)
        area = np.array([_area(row) for row in rows], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a bbox of image {image['file_name']} is not four numbers ({error})") from error
    positive = (np.isfinite(corners).all(axis=1)) & (corners[:, 2:] > 0).all(axis=1)
    corners[:, 2:] += corners[:, :2]
    corners = np.clip(corners, 0, np.array([width, height, width, height], dtype=np.float64))
    kept = positive & (corners[:, 2:] > corners[:, :2]).all(axis=1)
    box_area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return CocoImage(
        path=folder / image["file_name"],
        image_id=int(image["id"]),
        size=(height, width),
        boxes=corners[kept].astype(np.float32),
        labels=np.array([ids.index(row["category_id"]) for row in rows], dtype=np.int64)[kept],
        crowd=np.array([bool(row.get("iscrowd", 0)) for row in rows], dtype=np.bool_)[kept],
        area=np.where(np.isfinite(area) & (area > 0), area, box_area)[kept].astype(np.float32),
    )


def _area(row: Mapping[str, Any]) -> float:
    area = row.get("area")
    return float(area) if area is not None else -1.0


def _find_images(images: Sequence[Mapping[str, Any]], annotations: Path, root: Path | None) -> Path:
    """The folder that holds the first image; else the first folder that is there, to be named in the message."""
    root = root if root is not None else annotations.parent.parent
    name = annotations.stem.removeprefix("instances_")
    folders = [root / pattern.format(name=name) for pattern in _IMAGES]
    for folder in folders:
        if (folder / images[0]["file_name"]).is_file():
            return folder
    return next(folder for folder in [*folders, root] if folder.is_dir() or folder == root)


def _check_files(records: Sequence[CocoImage], folder: Path, annotations: Path) -> None:
    missing = [record.path.name for record in records if not record.path.is_file()]
    if missing:
        raise DataError(
            f"{annotations}: {len(missing)} of {len(records)} images are not in {folder}: {_some(missing)}; "
            "copy them there, or give the folder that they are in"
        )


def _some(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:5])) + (f", ... ({len(values)} in all)" if len(values) > 5 else "")
