"""Images with boxes as samples of a training or an evaluation, and samples as batches."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.bad_images import BadImagePolicy, EvaluationSamples, PassedOver, TrainingSamples
from autotimm.data.batch import DetectionBatch, GroundTruth
from autotimm.data.box_transforms import BoxAugmentation, augment_boxed
from autotimm.data.boxed import BoxedImage, BoxedPixels, Boxes
from autotimm.data.image_cache import ImageCache
from autotimm.data.yolox_recipe import BatchSetting, Partners, YOLOXAugmentation, augment_yolox
from autotimm.runtime.errors import DataError, ImageError
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


class TrainingImages(TrainingSamples):
    """Augmented images by ``(index, seed)``, without their crowd boxes."""

    def __init__(
        self,
        images: tuple[BoxedImage, ...],
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
        frame, boxes, kept = augment_boxed(
            load_boxed(image), image.boxes[targets], self.preprocess, self.augmentation, seed
        )
        return Sample(frame, boxes, image.labels[targets][kept], str(image.path))


class ComposedImages(TrainingSamples):
    """Images by ``(index, seed, setting)``, put together of several as the YOLOX recipe does it.

    Args:
        images: all that there are.
        preprocess: the filter and the padding; also the size where a key has no setting.
        recipe: the settings of the augmentation.
        policy: what is done about bad images; in place of one that others are put together with comes the next.
        cache: bytes of decoded images that each process keeps.
    """

    def __init__(
        self,
        images: tuple[BoxedImage, ...],
        preprocess: Preprocess,
        recipe: YOLOXAugmentation,
        policy: BadImagePolicy,
        cache: int,
    ) -> None:
        super().__init__(policy)
        self.images, self.preprocess, self.recipe = images, preprocess, recipe
        self.cache = ImageCache(cache)
        annotated = tuple(index for index, image in enumerate(images) if not image.crowd.all())
        self.partners = Partners(len(images), annotated)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int, seed: int, setting: BatchSetting | None = None) -> Sample | PassedOver:
        """One composed image with its boxes."""
        if setting is None:
            setting = BatchSetting(self.preprocess.size, composed=True)
        bad: list[str] = []

        def one(wanted: int) -> BoxedPixels:
            return self._boxed(wanted) if wanted == index else self._partner(wanted, bad)

        made = augment_yolox(
            one,
            index,
            seed,
            self.partners,
            self.recipe,
            replace(self.preprocess, size=setting.size),
            setting.composed,
        )
        sample = Sample(made.image, made.boxes, made.labels, str(self.images[index].path))
        return PassedOver(sample, tuple(bad)) if bad else sample

    def _boxed(self, index: int) -> BoxedPixels:
        image = self.images[index]
        targets = ~image.crowd
        pixels = self.cache.get(index, lambda wanted: load_boxed(self.images[wanted]))
        return BoxedPixels(pixels, image.boxes[targets], image.labels[targets])

    def _partner(self, index: int, bad: list[str]) -> BoxedPixels:
        """The first readable image from this one on; the first is known to be there, since it has been read."""
        for step in range(len(self.images)):
            try:
                return self._boxed((index + step) % len(self.images))
            except (ImageError, DataError) as error:
                if self.policy == "refuse":
                    raise
                bad.append(f"training image {error}")
        raise DataError(f"none of the {len(self.images)} images to train on can be read")


class EvaluationImages(EvaluationSamples):
    """Images by index, as the runtime would see them, with their truths in source pixels."""

    def __init__(self, images: tuple[BoxedImage, ...], preprocess: Preprocess, policy: BadImagePolicy) -> None:
        super().__init__(policy, "validation")
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Sample:
        """One image with its boxes, its placement and its truth."""
        image = self.images[index]
        frame, placement = fit_image(load_boxed(image), self.preprocess)
        targets = ~image.crowd
        boxes = placement.to_input(image.boxes[targets])
        return Sample(frame, boxes, image.labels[targets], str(image.path), placement, ground_truth(image))


def load_boxed(image: BoxedImage) -> NDArray[np.uint8]:
    """The pixels, provided that they are as large as the annotations say.

    Raises:
        ImageError: they cannot be decoded.
        DataError: they are of another size.
    """
    pixels = load_image(image.path)
    check_size(image, (pixels.shape[0], pixels.shape[1]))
    return pixels


def check_size(image: BoxedImage, size: tuple[int, int]) -> None:
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


def ground_truth(image: BoxedImage) -> GroundTruth:
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
