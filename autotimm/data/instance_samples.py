"""Images with masks as samples of a training or an evaluation, and samples as batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.bad_images import BadImagePolicy, EvaluationSamples, TrainingSamples
from autotimm.data.batch import InstanceBatch, InstanceTruth
from autotimm.data.box_transforms import BoxAugmentation, augment_pixels, moved_boxes
from autotimm.data.boxed import BoxedImage, Boxes
from autotimm.data.boxed_samples import ground_truth, load_boxed
from autotimm.data.instance_masks import placed, region_of
from autotimm.regions import MaskCrops
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image


class InstanceSample(NamedTuple):
    """One image at the model's size, with what a batch needs of it."""

    image: NDArray[np.uint8]
    boxes: Boxes
    labels: NDArray[np.int64]
    path: str
    masks: MaskCrops | None = None
    placement: Placement | None = None
    truth: InstanceTruth | None = None


class TrainingInstances(TrainingSamples):
    """Augmented images by ``(index, seed)``, without their crowds; masks are unrolled when an image is loaded."""

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

    def load(self, index: int, seed: int) -> InstanceSample:
        """One augmented image with the boxes and masks of what is still to be seen."""
        image = self.images[index]
        size = self.preprocess.size
        moved = augment_pixels(load_boxed(image), self.preprocess, self.augmentation, seed)
        boxes, kept = moved_boxes(image.boxes, moved, size)
        regions, chosen = [], []
        for which in np.flatnonzero(kept & ~image.crowd):
            region = placed(region_of(image.masks[which]), moved.placement, moved.mirrored, size)
            if region.pixels.any():  # a thin one may fall between the pixels
                regions.append(region)
                chosen.append(which)
        at = np.array(chosen, dtype=np.intp)
        return InstanceSample(moved.frame, boxes[at], image.labels[at], str(image.path), MaskCrops.of(regions))


class EvaluationInstances(EvaluationSamples):
    """Images by index, as the runtime would see them, with their truths in source pixels."""

    def __init__(self, images: tuple[BoxedImage, ...], preprocess: Preprocess, policy: BadImagePolicy) -> None:
        super().__init__(policy, "validation")
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> InstanceSample:
        """One image with its boxes, its placement and its truth."""
        image = self.images[index]
        frame, placement = fit_image(load_boxed(image), self.preprocess)
        targets = ~image.crowd
        boxes = placement.to_input(image.boxes[targets])
        truth = instance_truth(image)
        return InstanceSample(frame, boxes, image.labels[targets], str(image.path), None, placement, truth)


def instance_truth(image: BoxedImage) -> InstanceTruth:
    """The annotated objects of an image as the metrics take them."""
    return InstanceTruth(*ground_truth(image), image.masks)


def collate_instances(samples: list[InstanceSample]) -> InstanceBatch:
    """Stack images; keep boxes, labels and masks in a list per image."""
    return InstanceBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        boxes=[torch.from_numpy(sample.boxes) for sample in samples],
        labels=[torch.from_numpy(sample.labels) for sample in samples],
        masks=[sample.masks for sample in samples if sample.masks is not None],
        placements=[sample.placement for sample in samples if sample.placement is not None],
        truths=[sample.truth for sample in samples if sample.truth is not None],
        paths=tuple(sample.path for sample in samples),
    )
