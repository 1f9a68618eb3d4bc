"""``DetectionDataModule``: COCO annotations as batches of pixels and boxes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.bad_images import BadImagePolicy, EvaluationSamples, TrainingSamples
from autotimm.data.batch import DetectionBatch, GroundTruth
from autotimm.data.box_transforms import BoxAugmentation, Boxes, augment_boxed, check_box_augmentation
from autotimm.data.coco import CocoDataset, CocoImage, find_annotations, read_coco
from autotimm.data.module import VisionDataModule
from autotimm.runtime.errors import DataError
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image


class Sample(NamedTuple):
    """One image at the model's size, with what a batch needs of it."""

    image: NDArray[np.uint8]
    boxes: Boxes
    labels: NDArray[np.int64]
    path: str
    placement: Placement | None = None
    truth: GroundTruth | None = None


class DetectionDataModule(VisionDataModule):
    """Images with boxes, annotated in COCO JSON.

    The layouts ``images/SPLIT`` with ``annotations/SPLIT.json`` and ``SPLIT2017`` with
    ``annotations/instances_SPLIT2017.json`` are found by themselves; anything else can be given. A split is read when
    it is first needed, so that a data set of one split can be evaluated.

    Args:
        root: the folder of the data set.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        train_annotations: annotation file of the training split.
        val_annotations: annotation file of the validation split.
        train_images: folder that the file names in ``train_annotations`` are relative to.
        val_images: the same for ``val_annotations``.
        augmentation: ``default``, ``light`` or ``none``.
        seed: of the order and the augmentation.
        bad_images: ``refuse`` stops at an image that cannot be read or is of another size than annotated; ``skip``
            passes over it with a warning: training takes the next one in its place, evaluation leaves it out.
    """

    kind = "detection"

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        *,
        train_annotations: str | Path | None = None,
        val_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_images: str | Path | None = None,
        augmentation: str = "default",
        seed: int = 0,
        bad_images: str = "refuse",
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed=seed, bad_images=bad_images)
        self.augmentation = check_box_augmentation(augmentation)
        self.train_annotations, self.train_images = train_annotations, train_images
        self.val_annotations, self.val_images = val_annotations, val_images
        self.collate = collate_boxed

    @cached_property
    def _train(self) -> CocoDataset:
        return self._read("train", self.train_annotations, self.train_images)

    @cached_property
    def _val(self) -> CocoDataset:
        return self._read("val", self.val_annotations, self.val_images)

    def _read(self, split: str, annotations: str | Path | None, images: str | Path | None) -> CocoDataset:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder")
        file = find_annotations(self.root, split) if annotations is None else Path(annotations)
        return read_coco(file, None if images is None else Path(images), self.root)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the categories in the order of their ids."""
        return self._val.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The COCO id of each class, for writing results."""
        return self._val.category_ids

    def setup(self, stage: str) -> None:
        """Lightning's hook; before a training the categories of the two splits are compared.

        Raises:
            DataError: the data cannot be read, or its classes are not the model's.
        """
        if stage == "fit":
            self._check_categories()
        super().setup(stage)

    def _check_categories(self) -> None:
        train = dict(zip(self._train.category_ids, self._train.class_names, strict=True))
        val = dict(zip(self._val.category_ids, self._val.class_names, strict=True))
        if train != val:
            sides = {"only in training": train.items() - val.items(), "only in validation": val.items() - train.items()}
            told = [
                f"{side}: {', '.join(f'{name} (id {category})' for category, name in sorted(found))}"
                for side, found in sides.items()
                if found
            ]
            raise DataError(f"{self.root}: the two splits do not have the same categories; {'; '.join(told)}")

    def validation_samples(self) -> list[tuple[Path, GroundTruth]]:
        """Path and annotated objects of each validation image."""
        return [(image.path, ground_truth(image)) for image in self._val.images]

    def _train_dataset(self) -> TrainingImages:
        return TrainingImages(self._train.images, self.preprocess, self.augmentation, self.bad_images.policy)

    def _val_dataset(self) -> EvaluationImages:
        return EvaluationImages(self._val.images, self.preprocess, self.bad_images.policy)


class TrainingImages(TrainingSamples):
    """Augmented images by ``(index, seed)``, without their crowd boxes."""

    def __init__(
        self,
        images: tuple[CocoImage, ...],
        preprocess: Preprocess,
        augmentation: BoxAugmentation,
        policy: BadImagePolicy,
    ) -> None:
        super().__init__(policy)
        self.images, self.preprocess, self.augmentation = images, preprocess, augmentation

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, seed: int) -> Sample:
        """One augmented image with its boxes."""
        image = self.images[index]
        targets = ~image.crowd
        frame, boxes, kept = augment_boxed(_load(image), image.boxes[targets], self.preprocess, self.augmentation, seed)
        return Sample(frame, boxes, image.labels[targets][kept], str(image.path))


class EvaluationImages(EvaluationSamples):
    """Images by index, as the runtime would see them, with their truths in source pixels."""

    def __init__(self, images: tuple[CocoImage, ...], preprocess: Preprocess, policy: BadImagePolicy) -> None:
        super().__init__(policy, "validation")
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Sample:
        """One image with its boxes, its placement and its truth."""
        image = self.images[index]
        frame, placement = fit_image(_load(image), self.preprocess)
        targets = ~image.crowd
        boxes = placement.to_input(image.boxes[targets])
        return Sample(frame, boxes, image.labels[targets], str(image.path), placement, ground_truth(image))


def _load(image: CocoImage) -> NDArray[np.uint8]:
    """The pixels, provided that they are as large as the annotations say."""
    pixels = load_image(image.path)
    check_size(image, (pixels.shape[0], pixels.shape[1]))
    return pixels


def check_size(image: CocoImage, size: tuple[int, int]) -> None:
    """Refuse an image whose ``(height, width)`` is not the annotated one.

    Raises:
        DataError: naming both.
    """
    if size != image.size:
        (height, width), (said_height, said_width) = size, image.size
        raise DataError(
            f"{image.path}: is {width} x {height} when upright by its EXIF data, but its annotations are for "
            f"{said_width} x {said_height}: its boxes would be in the wrong place"
        )


def ground_truth(image: CocoImage) -> GroundTruth:
    """The annotated objects of an image as the metrics take them."""
    return GroundTruth(
        torch.from_numpy(image.boxes),
        torch.from_numpy(image.labels),
        torch.from_numpy(image.crowd),
        torch.from_numpy(image.area),
    )


def collate_boxed(samples: list[Sample]) -> DetectionBatch:
    """Stack images; keep boxes and labels in a list per image."""
    return DetectionBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        placements=[sample.placement for sample in samples if sample.placement is not None],
        truths=[sample.truth for sample in samples if sample.truth is not None],
        paths=tuple(sample.path for sample in samples),
    )
