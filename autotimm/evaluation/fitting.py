"""Whether options, and some data by what lies in its folder, can be of a model's task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autotimm.data.box_csv import is_box_csv
from autotimm.data.box_formats import formats_there
from autotimm.evaluation.columns import TableColumns
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.images import EXTENSIONS
from autotimm.runtime.manifest import Task

_OBJECTS_OR_MASKS: tuple[Task, ...] = ("detection", "semantic_segmentation", "instance_segmentation")
_OPTIONS: dict[str, tuple[str, tuple[Task, ...]]] = {
    "format": ("format (--format)", _OBJECTS_OR_MASKS),
    "bad_annotations": ("bad_annotations (--bad-annotations)", _OBJECTS_OR_MASKS),
    "label_separator": ("label_separator (--label-separator)", ("classification",)),
    "ignore_index": ("ignore_index (--ignore-index)", ("semantic_segmentation",)),
    "class_mapping": ("class_mapping", ("semantic_segmentation",)),
    "sliding_window": ("sliding_window (--window)", ("semantic_segmentation",)),
}
"""Options of an evaluation that are not of all tasks: what users call them, and of which they are."""


def check_options_fit(task: Task, options: Sequence[str]) -> None:
    """Refuse options that would change nothing.

    Args:
        task: of the model.
        options: names of those that are not as they are by default.

    Raises:
        ConfigError: one that is for other tasks.
    """
    for name in options:
        told, tasks = _OPTIONS[name]
        if task not in tasks:
            raise ConfigError(f"{told} is for {_in_words(*tasks)}, and this model is for {_in_words(task)}")


def _in_words(*tasks: Task) -> str:
    return ", ".join(task.replace("_", " ") for task in tasks)


def check_data_fits(
    task: Task, data: str | Path, annotations: str | Path | None = None, columns: Mapping[str, str] | None = None
) -> None:
    """Say it where data are of another task than the model. What is wrong within them is found when they are read.

    Args:
        task: of the model.
        data: a folder or a CSV file, which may not exist.
        annotations: the COCO JSON file, where one was named.
        columns: of a CSV file, where their names are others.

    Raises:
        DataError: the data are of another task.
    """
    root, boxes = Path(data), TableColumns(columns or {}).boxes
    if task == "detection" and annotations is None:
        if root.is_file() and not is_box_csv(root, boxes):
            raise DataError(
                f"{root}: is a file of labels, but the model is a detector: give a folder with images and boxes (COCO: "
                f"annotations/val.json), a CSV file with the columns {', '.join(boxes.names)} (--column renames them), "
                "or the annotation file as annotations (--annotations)"
            )
        boxed = _annotations(root) or any(formats_there(root, split, boxes) for split in ("val", "train", "test"))
        if not boxed and (_holds_images(root) or _holds_split_images(root)):
            raise DataError(
                f"{root}: has images in folders of classes and no annotations of boxes, but the model is a detector: "
                "give a folder with boxes (COCO: annotations/val.json), or the annotation file as annotations "
                "(--annotations)"
            )
    if task == "instance_segmentation" and root.is_file():
        raise DataError(
            f"{root}: is a file, but the model is for instance segmentation: give a folder with images and COCO "
            "annotations with masks (annotations/val.json), and another place of these as annotations (--annotations)"
        )
    if task == "semantic_segmentation" and root.is_file():
        raise DataError(
            f"{root}: is a file, but the model is for semantic segmentation: give a folder with images and masks "
            "(val/images and val/masks, and classes.txt)"
        )
    if task == "classification":
        if annotations is not None:
            raise DataError(
                f"{annotations}: annotations of boxes were given, but the model is a classifier: give an image folder "
                "or a CSV file of labels"
            )
        found = sorted(root.glob("annotations/*.json"))
        if found and not _holds_split_images(root):
            raise DataError(
                f"{root}: has COCO annotations ({found[0].relative_to(root)}), but the model is a classifier: give a "
                "folder with a subfolder of images for each class, or a CSV file of labels"
            )


def _annotations(root: Path) -> list[Path]:
    return [*root.glob("annotations/*.json"), *root.glob("*.json")]


def _holds_images(root: Path) -> bool:
    """Whether there are images in folders ``CLASS``."""
    return any(_is_image(file) for folder in _folders(root) for file in folder.iterdir())


def _holds_split_images(root: Path) -> bool:
    """Whether there are images in folders ``SPLIT/CLASS``; COCO's are in ``images/SPLIT`` or ``SPLIT``."""
    return any(_holds_images(folder) for folder in _folders(root))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [folder for folder in root.iterdir() if folder.is_dir() and folder.name not in ("images", "annotations")]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and file.is_file()
