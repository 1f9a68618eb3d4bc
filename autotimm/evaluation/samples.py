"""Labelled images for evaluation, with the classes of the data mapped to those of the model by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotimm.data.box_formats import check_box_format, read_boxed
from autotimm.data.boxed import BoxedImage
from autotimm.data.boxed_samples import ground_truth
from autotimm.data.image_folder import read_image_folder
from autotimm.data.instance_samples import instance_truth
from autotimm.data.mask_formats import check_mask_format, read_masked
from autotimm.data.masked import MaskedSamples
from autotimm.data.tables import (
    SEPARATOR,
    LabelColumns,
    Table,
    image_paths,
    read_labels,
    read_multi_labels,
    read_table,
)
from autotimm.evaluation.columns import TableColumns
from autotimm.evaluation.mask_truths import MaskTruths
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.manifest import Task


@dataclass(frozen=True)
class EvaluationSet:
    """Images and what is in them: classes, objects in source pixels, or a class for every pixel."""

    paths: list[Path]
    truths: Sequence[Any]
    """Class indices; for multi-label models 0 or 1 for each class ``[C]``; ``GroundTruth`` or ``InstanceTruth`` of
    objects; masks at source size."""
    annotated: list[BoxedImage] | list[None]
    """Detection and instances: what the annotations say of each image, its size among it."""

    def __len__(self) -> int:
        return len(self.paths)


def read_evaluation_set(
    task: Task,
    data: str | Path,
    class_names: Sequence[str],
    *,
    split: str = "val",
    annotations: str | Path | None = None,
    multi_label: bool = False,
    images: str | Path | None = None,
    format: str = "auto",  # noqa: A002 - as the argument of the data module
    bad_annotations: str = "refuse",
    columns: Mapping[str, str] | None = None,
    label_separator: str = SEPARATOR,
    ignore_index: int = 255,
    class_mapping: Mapping[Any, Any] | None = None,
) -> EvaluationSet:
    """Read the images of one split with their truths.

    Args:
        task: what the truths are.
        data: root of the data set; for classification also a CSV file with a column ``image`` of paths, and one
            ``label`` of class names; for detection one with a row for each box. For a multi-label model its further
            columns are one of 0 and 1 for each class, or a single one that names the classes of an image, parted by
            ``|``. Columns beside those of all the model's classes are not looked at.
        class_names: the model's classes; the data's are found among them by name, in whatever order.
        split: which part of the data; ``all`` for the whole of a folder of classes that has no parts. A CSV file is
            evaluated whole.
        annotations: detection: the annotation file, where it is not in its usual place under ``data``; semantic
            segmentation: the folder of the masks, VOC's list or COCO's file.
        multi_label: the model gives an image any number of classes.
        images: the folder that the paths in a CSV file, or in ``annotations``, are taken from; looked for where absent.
        format: detection: of the boxes, as ``DetectionDataModule`` takes it; semantic segmentation: of the masks, as
            ``SegmentationDataModule`` does; masks of objects are COCO's.
        bad_annotations: detection and segmentation: ``refuse`` or ``skip``.
        columns: of a CSV file, where their names are others: ``{"label": "class_id"}``. The roles are ``image``,
            ``label``, and for boxes ``xmin``, ``ymin``, ``xmax``, ``ymax``.
        label_separator: for a multi-label model: between the names in a cell.
        ignore_index: semantic segmentation: of pixels that are not labelled, in the masks.
        class_mapping: semantic segmentation: from numbers or colours in the masks to names of classes.

    Raises:
        ConfigError: no such role of a column, or the data have no columns.
        DataError: the data cannot be read, has no such part, or has classes that the model does not know.
    """
    root, named = Path(data), TableColumns(columns or {}, label_separator)
    if task == "detection" and root.suffix.lower() == ".csv" and root.is_file():
        return _read_boxed(root, class_names, split, annotations, images, format, bad_annotations, named, task)
    if task == "classification" and (root.is_file() or root.suffix.lower() == ".csv"):
        return _read_csv(root, class_names, multi_label, root.parent if images is None else Path(images), named)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    if multi_label:
        raise DataError(
            f"{root}: is a folder; a multi-label model is evaluated on a CSV file, which names several classes"
        )
    if task == "classification":
        named.check_used(root)
        return _read_labelled(root, class_names, split)
    if task in ("detection", "instance_segmentation"):
        return _read_boxed(root, class_names, split, annotations, images, format, bad_annotations, named, task)
    named.check_used(root)
    masked = read_masked(
        root,
        split,
        format=check_mask_format(format),
        annotations=None if annotations is None else Path(annotations),
        images=None if images is None else Path(images),
        class_mapping=class_mapping,
        ignore_index=ignore_index,
        bad_annotations=bad_annotations,
        usual_names=class_names,
    )
    classes_of = _indices(masked.classes.class_names, class_names, masked.source)
    paths = [image.path for image in masked.images]
    return EvaluationSet(paths, MaskTruths(MaskedSamples(masked, classes_of)), [None] * len(paths))


def _read_labelled(root: Path, class_names: Sequence[str], split: str) -> EvaluationSet:
    if (root / split).is_dir():
        folder = read_image_folder(root / split, val_fraction=1.0)
    elif (root / "train").is_dir() or (root / "val").is_dir():
        raise DataError(f"{root}: has no folder {split!r}; name a split that is there, or give a folder of classes")
    else:
        folder = read_image_folder(root, val_fraction=1.0)
        if split != "all":  # drawing a part anew, with whatever seed, would evaluate images that were trained on
            raise DataError(
                f"{root}: is a folder of classes without splits, and which of its images were held out of training is "
                f"not known; give a folder with train/ and val/, or evaluate all {len(folder.val)} images with "
                "--split all"
            )
    index_of = _indices(folder.class_names, class_names, root)
    paths, labels = [image.path for image in folder.val], [index_of[image.label] for image in folder.val]
    return EvaluationSet(paths, labels, [None] * len(paths))


def _read_csv(
    file: Path, class_names: Sequence[str], multi_label: bool, images: Path, named: TableColumns
) -> EvaluationSet:
    if not file.is_file():
        raise DataError(f"{file}: there is no such CSV file")
    if not multi_label:
        table = read_table(file, [named.image, named.label])
        names = read_labels(table, named.label)
        unique = list(dict.fromkeys(names))
        index_of = dict(zip(unique, _indices(unique, class_names, file), strict=True))
        paths = image_paths(table, named.image, images)
        return EvaluationSet(paths, [index_of[name] for name in names], [None] * len(paths))
    table = read_table(file, [named.image, *([named.label] if "label" in named.given else [])])
    layout = _layout(table, class_names, named)
    theirs, labels = read_multi_labels(table, layout)
    indices = _indices(theirs, class_names, file)
    absent = [name for name in class_names if name not in theirs]
    if layout.names is None and absent:
        raise DataError(
            f"{file}: has no column for {', '.join(absent[:8])} ({len(absent)} of the model's {len(class_names)} "
            "classes), so whether its images have them is not known"
        )
    truths = np.zeros((len(labels), len(class_names)), dtype=np.float32)
    truths[:, indices] = labels
    paths = image_paths(table, named.image, images)
    return EvaluationSet(paths, list(truths), [None] * len(paths))


def _layout(table: Table, class_names: Sequence[str], named: TableColumns) -> LabelColumns:
    """The column of names, where one is named; else those of the model's classes, or one further one of names."""
    image, separator = named.image, named.label_separator
    if "label" in named.given:
        return LabelColumns(image, names=named.label, separator=separator)
    if all(name in table.columns for name in class_names):
        return LabelColumns(image, columns=tuple(class_names))
    further = [name for name in table.columns if name != image]
    names = further[0] if len(further) == 1 and further[0] not in class_names else None
    return LabelColumns(image, names=names, separator=separator)


def _read_boxed(
    root: Path,
    class_names: Sequence[str],
    split: str,
    annotations: str | Path | None,
    images: str | Path | None,
    format: str,  # noqa: A002
    bad_annotations: str,
    named: TableColumns,
    task: Task,
) -> EvaluationSet:
    """Objects with boxes, and for instance segmentation with masks, which COCO files have."""
    masks = task == "instance_segmentation"
    if masks and format not in ("auto", "coco"):
        raise ConfigError(f"format is {format!r}, but masks of objects are read from COCO files only")
    if root.is_file():  # a table of boxes
        root, annotations = root.parent, root
    dataset = read_boxed(
        root,
        split,
        format="coco" if masks else check_box_format(format),
        annotations=None if annotations is None else Path(annotations),
        images=None if images is None else Path(images),
        columns=named.boxes,
        bad_annotations=bad_annotations,
        masks=masks,
    )
    named.check_used(dataset.source)
    index_of = torch.tensor(_indices(dataset.class_names, class_names, dataset.source))
    truths = [(instance_truth if masks else ground_truth)(image) for image in dataset.images]
    mapped = [truth._replace(labels=index_of[truth.labels]) for truth in truths]
    return EvaluationSet([image.path for image in dataset.images], mapped, list(dataset.images))


def _indices(theirs: Sequence[str], ours: Sequence[str], where: Path) -> list[int]:
    """The model's index of each class of the data."""
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        known = ", ".join(ours[:8]) + (", ..." if len(ours) > 8 else "")
        raise DataError(
            f"{where}: has classes that the model does not know: {', '.join(unknown[:8])} "
            f"({len(unknown)} of {len(theirs)}); the model knows {known}"
        )
    return [list(ours).index(name) for name in theirs]
