"""Labelled images for evaluation, with the classes of the data mapped to those of the model by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autotimm.data.batch import GroundTruth
from autotimm.data.coco import CocoImage, find_annotations, read_coco
from autotimm.data.detection import ground_truth
from autotimm.data.image_folder import read_image_folder
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.manifest import Task


@dataclass(frozen=True)
class EvaluationSet:
    """Images and what is in them: class indices for classification, objects in source pixels for detection."""

    paths: list[Path]
    truths: list[int] | list[GroundTruth]
    annotated: list[CocoImage] | list[None]
    """Detection: what the annotations say of each image, its size among it."""

    def __len__(self) -> int:
        return len(self.paths)


def read_evaluation_set(
    task: Task,
    data: str | Path,
    class_names: Sequence[str],
    *,
    split: str = "val",
    annotations: str | Path | None = None,
) -> EvaluationSet:
    """Read the images of one split with their truths.

    Args:
        task: what the truths are.
        data: root of the data set.
        class_names: the model's classes; the data's are found among them by name, in whatever order.
        split: which part of the data; ``all`` for the whole of a folder of classes that has no parts.
        annotations: detection: the COCO JSON file, where it is not in its usual place under ``data``.

    Raises:
        DataError: the data cannot be read, has no such part, or has classes that the model does not know.
    """
    root = Path(data)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder")
    if task == "classification":
        return _read_labelled(root, class_names, split)
    if task == "detection":
        return _read_boxed(root, class_names, split, annotations)
    raise ConfigError(f"evaluation of {task} is not there yet")


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


def _read_boxed(root: Path, class_names: Sequence[str], split: str, annotations: str | Path | None) -> EvaluationSet:
    file = Path(annotations) if annotations is not None else find_annotations(root, split)
    dataset = read_coco(file, root=root)
    index_of = torch.tensor(_indices(dataset.class_names, class_names, file))
    truths = [ground_truth(image) for image in dataset.images]
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
