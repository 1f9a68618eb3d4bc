"""``ImageDataModule``: images of one class each as batches of pixels and class indices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.bad_images import BadImagePolicy, EvaluationSamples, TrainingSamples
from autotimm.data.batch import ClassificationBatch
from autotimm.data.csv_data import read_single_label_data
from autotimm.data.image_folder import read_folder_data
from autotimm.data.labelled import LabelledData, LabelledImages, SampleList
from autotimm.data.module import VisionDataModule
from autotimm.data.tables import IMAGE_COLUMN, LABEL_COLUMN
from autotimm.data.torchvision_sets import read_torchvision_data
from autotimm.data.transforms import ImageTransform, augment_labelled, check_augmentation
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image


class Sample(NamedTuple):
    """One image at the model's size, with its label."""

    image: NDArray[np.uint8]
    label: Any
    """A class index, or float32 ``[C]`` of 0 and 1."""
    path: str


class LabelledDataModule(VisionDataModule):
    """What the data modules of labelled images share; a subclass reads the data."""

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None,
        batch_size: int,
        num_workers: int | None,
        *,
        augmentation: str,
        transforms: ImageTransform | None,
        seed: int,
        bad_images: str,
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed=seed, bad_images=bad_images)
        if transforms is not None and augmentation != "default":
            raise ConfigError(f"give augmentation ({augmentation!r}) or transforms of your own, not both")
        if transforms is not None and not callable(transforms):
            raise ConfigError(f"transforms is {transforms!r}, but must be a callable that takes and gives an image")
        self.augmentation = check_augmentation(augmentation)
        self.transforms = transforms
        self.collate = collate_labelled

    @abstractmethod
    def _read(self) -> LabelledData:
        """Read what is on disk."""

    @cached_property
    def _data(self) -> LabelledData:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder")
        return self._read()

    @property
    def class_names(self) -> tuple[str, ...]:
        """As the data names its classes, sorted."""
        return self._data.class_names

    def class_counts(self) -> tuple[NDArray[np.int64], int]:
        """How many training images hold each class ``[C]``, and how many there are in all."""
        labels = self._data.train.labels
        if labels.ndim == 2:
            return labels.sum(axis=0, dtype=np.float64).astype(np.int64), len(labels)
        return np.bincount(labels.astype(np.int64), minlength=len(self.class_names)).astype(np.int64), len(labels)

    def validation_samples(self) -> Sequence[tuple[Path | NDArray[np.uint8], Any]]:
        """Each validation image and its label: a class index, or float32 ``[C]`` of 0 and 1."""
        return SampleList(self._data.val)

    def _train_dataset(self) -> TrainingImages:
        augmentation = self.augmentation if self.transforms is None else self.transforms
        return TrainingImages(self._data.train, self.preprocess, augmentation, self.bad_images.policy)

    def _val_dataset(self) -> EvaluationImages:
        return EvaluationImages(self._data.val, self.preprocess, self.bad_images.policy, "validation")

    def _test_dataset(self) -> EvaluationImages | None:
        if self._test is None:
            return None
        return EvaluationImages(self._test, self.preprocess, self.bad_images.policy, "test")

    @cached_property
    def _test(self) -> LabelledImages | None:
        return self._data.read_test()


class ImageDataModule(LabelledDataModule):
    """Images of one class each: in one folder per class, in CSV files, or in a set of torchvision.

    Without further arguments ``root`` is an image folder: ``root/train/CLASS/*`` and ``root/val/CLASS/*``, with
    ``root/test/CLASS/*`` if there is one, or ``root/CLASS/*``. Where nothing says what is for validation, the same part
    of each class is held out.

    Args:
        root: the folder of the data.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch, in each process.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        augmentation: ``none``, ``light``, ``default``, ``strong``, ``randaugment``, ``autoaugment``, or a policy string
            of timm, as ``rand-m9-mstd0.5-inc1``.
        transforms: instead of these, a callable that takes a ``tv_tensors.Image``, RGB uint8 ``[3, h, w]``, and gives
            the same of any size, or a PIL image. Normalisation is the model's.
        val_fraction: part of each class that is held out where there is no split for validation.
        seed: of the held-out part, the order and the augmentation.
        train_csv: a CSV file with a column of image paths, taken from ``root``, and one of class names.
        val_csv: the same for validation.
        test_csv: the same for the test.
        image_column: of the paths.
        label_column: of the class names.
        dataset: name of a class in ``torchvision.datasets`` whose files are under ``root``: ``CIFAR10``.
        balanced_sampling: draw the images of each class equally often in training, with replacement.
        bad_images: ``refuse`` stops at an image that cannot be read; ``skip`` passes over it with a warning: training
            takes the next one in its place, evaluation leaves it out.
    """

    kind = "classification"

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        *,
        augmentation: str = "default",
        transforms: ImageTransform | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        train_csv: str | Path | None = None,
        val_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        image_column: str = IMAGE_COLUMN,
        label_column: str = LABEL_COLUMN,
        dataset: str | None = None,
        balanced_sampling: bool = False,
        bad_images: str = "refuse",
    ) -> None:
        super().__init__(
            root,
            image_size,
            batch_size,
            num_workers,
            augmentation=augmentation,
            transforms=transforms,
            seed=seed,
            bad_images=bad_images,
        )
        self.files = {"train": train_csv, "val": val_csv, "test": test_csv}
        if dataset is not None and any(file is not None for file in self.files.values()):
            raise ConfigError("give CSV files or the dataset of torchvision, not both")
        if train_csv is None and (val_csv is not None or test_csv is not None):
            raise ConfigError("there is a val_csv or a test_csv, but no train_csv, whose classes they must have")
        self.image_column, self.label_column = image_column, label_column
        self.dataset = dataset
        self.val_fraction = val_fraction
        self.balanced_sampling = balanced_sampling

    def _read(self) -> LabelledData:
        if self.dataset is not None:
            return read_torchvision_data(self.root, self.dataset, self.val_fraction, self.seed)
        if self.files["train"] is not None:
            return read_single_label_data(
                self.root, self.files, self.image_column, self.label_column, self.val_fraction, self.seed
            )
        return read_folder_data(self.root, self.val_fraction, self.seed)

    def _sampling_weights(self) -> Sequence[float] | None:
        if not self.balanced_sampling:
            return None
        counts, _ = self.class_counts()
        weights: list[float] = (1.0 / counts[self._data.train.labels.astype(np.int64)]).tolist()
        return weights


class TrainingImages(TrainingSamples):
    """Augmented images by ``(index, seed)``."""

    def __init__(
        self,
        split: LabelledImages,
        preprocess: Preprocess,
        augmentation: str | ImageTransform,
        policy: BadImagePolicy,
    ) -> None:
        super().__init__(policy)
        self.split, self.preprocess, self.augmentation = split, preprocess, augmentation

    def __len__(self) -> int:
        return len(self.split)

    def load(self, index: int, seed: int) -> Sample:
        """One augmented image."""
        pixels = augment_labelled(self.split.images.load(index), self.preprocess, self.augmentation, seed)
        return Sample(pixels, self.split.labels[index], self.split.images.name(index))


class EvaluationImages(EvaluationSamples):
    """Images by index, as the runtime would see them."""

    def __init__(self, split: LabelledImages, preprocess: Preprocess, policy: BadImagePolicy, stage: str) -> None:
        super().__init__(policy, stage)
        self.split, self.preprocess = split, preprocess

    def __len__(self) -> int:
        return len(self.split)

    def load(self, index: int) -> Sample:
        """One image."""
        pixels = fit_image(self.split.images.load(index), self.preprocess)[0]
        return Sample(pixels, self.split.labels[index], self.split.images.name(index))


def collate_labelled(samples: list[Sample]) -> ClassificationBatch:
    """Stack samples into a batch."""
    return ClassificationBatch(
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.label for sample in samples])),
        tuple(sample.path for sample in samples),
    )
