"""What the data modules share: where evaluation preprocessing comes from, and how loaders are made."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import Dataset

from autotimm.data.bad_images import BadImages
from autotimm.data.loading import default_workers, make_loader
from autotimm.data.samplers import BatchPlan, SeededSampler, ShardSampler
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
from autotimm.runtime.preprocess import Preprocess

REMEMBERED_IMAGES = 32
"""So many validation images are named to the model, for the verification of its exports."""


class VisionDataModule(pl.LightningDataModule, ABC):
    """A data set on disk, read when it is first needed, as loaders of batches at a model's size.

    Evaluation pixels follow the :class:`Preprocess` of the model that is trained: a trainer attached to this module
    brings the two together, and :meth:`use_preprocess` does where there is no trainer. In a training of several
    processes each one's loaders give its own share of the batches.
    """

    kind: str
    """What the labels are: ``classification``, ``multi-label classification``, ``detection``,
    ``semantic_segmentation`` or ``instance_segmentation``."""
    collate: Callable[[list[Any]], Any]

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None,
        batch_size: int,
        num_workers: int | None,
        *,
        seed: int,
        bad_images: str = "refuse",
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.image_size = _height_and_width(image_size)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.bad_images = BadImages(bad_images)
        """What is done about images that cannot be read, and those that were met."""
        self.largest_batches = False
        """Whether all training batches are as large as the largest of a training whose batches change in size; for
        finding out what fits into memory."""
        self._preprocess: Preprocess | None = None
        self._told_of_small_data = False

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """In the order of the class indices."""

    @abstractmethod
    def validation_samples(self) -> Sequence[tuple[Path | NDArray[np.uint8], Any]]:
        """Each validation image, as a predictor takes it, and its ground truth, as the metrics of the task take it."""

    @abstractmethod
    def _train_dataset(self) -> Dataset[Any]:
        """Samples by ``(index, seed)``."""

    @abstractmethod
    def _val_dataset(self) -> Dataset[Any]:
        """Samples by index."""

    def _test_dataset(self) -> Dataset[Any] | None:
        """The same of the images that are kept for the end, where there are any."""
        return None

    def _sampling_weights(self) -> Sequence[float] | None:
        """How much more often one training image is drawn than another; each once an epoch where absent."""
        return None

    def _batch_plan(self) -> BatchPlan | None:
        """What the images of a training batch share, where that changes in the course of the training."""
        return None

    @property
    def preprocess(self) -> Preprocess:
        """How evaluation pixels are made; also the frame of training pixels.

        Raises:
            ConfigError: there is no model yet to take it from.
        """
        if self._preprocess is None:
            raise ConfigError(
                f"{type(self).__name__} does not know its preprocessing yet: fit a model with it, "
                "or call use_preprocess(model.preprocess)"
            )
        return self._preprocess

    def use_preprocess(self, preprocess: Preprocess) -> Preprocess:
        """Follow a model's preprocessing, at this module's ``image_size`` where it was given one.

        Returns:
            The preprocessing that is followed from now on.
        """
        if self.image_size is not None:
            preprocess = replace(preprocess, size=self.image_size)
        self._preprocess = preprocess
        return preprocess

    def setup(self, stage: str) -> None:
        """Lightning's hook: take the preprocessing from the trainer's model, and compare the classes.

        Before a training the model also takes over the names, the preprocessing at this module's ``image_size`` and
        some validation images. In other stages it stays as it is.

        Raises:
            DataError: the data cannot be read, is for another task, or its classes are not the model's.
        """
        if self.trainer is None:
            return
        model: Any = self.trainer.lightning_module
        wanted = getattr(model, "data_kind", self.kind)
        if wanted != self.kind:
            raise DataError(
                f"{type(self).__name__} gives data for {self.kind}, but this {type(model).__name__} is for {wanted}"
            )
        if isinstance(getattr(model, "preprocess", None), Preprocess):
            self.use_preprocess(model.preprocess)
        if stage == "fit" and hasattr(model, "bind_data"):
            model.bind_data(
                preprocess=self.preprocess,
                class_names=self.class_names,
                validation_images=self._some_validation_images(),
            )
        elif hasattr(model, "check_classes"):
            model.check_classes(self.class_names)

    def train_dataloader(self) -> Any:
        """Shuffled, augmented batches; the same ones for the same seed.

        A last, smaller batch is left out, unless there is no other.

        Raises:
            DataError: there are no images to train on, or fewer than processes.
        """
        dataset = self._train_dataset()
        length = self._length(dataset, "train on")
        rank, world_size = self._rank_and_world_size()
        sampler = SeededSampler(
            length,
            self.seed,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            weights=self._sampling_weights(),
            plan=self._batch_plan(),
        )
        if length < sampler.global_batch and not self._told_of_small_data:
            self._told_of_small_data = True
            processes = f" in each of {world_size} processes" if world_size > 1 else ""
            warnings.warn(
                f"{self.root}: batch_size={self.batch_size}{processes} is more than the {length} images to train on: "
                "each epoch is one step with all of them",
                DataWarning,
                stacklevel=2,
            )
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> Any:
        """Validation batches in order, decoded and resized as the runtime does it.

        Raises:
            DataError: there are no images to validate on.
        """
        dataset = self._val_dataset()
        return self._loader(dataset, ShardSampler(self._length(dataset, "validate on"), *self._rank_and_world_size()))

    def test_dataloader(self) -> Any:
        """The same for the split ``test`` where there is one; otherwise it is the validation split again.

        Raises:
            DataError: there are no images to test on.
        """
        dataset = self._test_dataset()
        if dataset is None:
            return self.val_dataloader()
        return self._loader(dataset, ShardSampler(self._length(dataset, "test on"), *self._rank_and_world_size()))

    def _length(self, dataset: Dataset[Any], purpose: str) -> int:
        length: int = len(dataset)  # type: ignore[arg-type]
        if length == 0:
            raise DataError(f"{self.root}: holds no images to {purpose}")
        return length

    def _loader(self, dataset: Dataset[Any], sampler: SeededSampler | ShardSampler) -> Any:
        return make_loader(dataset, self.collate, self.batch_size, self._workers(), sampler, bad_images=self.bad_images)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _workers(self) -> int:
        """As given; else those that suit the machine, shared by the processes of a training on it."""
        if self.num_workers is not None:
            return self.num_workers
        return default_workers() // (1 if self.trainer is None else self.trainer.num_devices)

    def _some_validation_images(self) -> list[str]:
        samples = self.validation_samples()
        count = min(len(samples), REMEMBERED_IMAGES)  # from all over the set, so from every class
        chosen = [samples[index * len(samples) // count][0] for index in range(count)]
        return [str(image.resolve()) for image in chosen if isinstance(image, Path)]


def _height_and_width(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ConfigError(f"image_size is {image_size!r}, but must be a number of pixels or (height, width)")
    return size[0], size[1]
