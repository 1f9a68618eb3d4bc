"""Images with masks as samples of a training or an evaluation, and samples as batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.bad_images import BadImagePolicy, EvaluationSamples, TrainingSamples
from autotimm.data.batch import SegmentationBatch
from autotimm.data.box_transforms import BoxAugmentation
from autotimm.data.mask_classes import Mask
from autotimm.data.mask_transforms import augment_masked, place_mask
from autotimm.data.masked import MaskedData, check_mask_size
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Placement, Preprocess
from autotimm.runtime.resize import fit_image


class MaskedSample(NamedTuple):
    """One image at the model's size, with what a batch needs of it."""

    image: NDArray[np.uint8]
    mask: Mask
    path: str
    placement: Placement | None = None
    truth: Mask | None = None


class MaskedTrainingImages(TrainingSamples):
    """Augmented images by ``(index, seed)``."""

    def __init__(
        self, data: MaskedData, preprocess: Preprocess, augmentation: BoxAugmentation, policy: BadImagePolicy
    ) -> None:
        super().__init__(policy)
        self.data, self.preprocess, self.augmentation = data, preprocess, augmentation

    def __len__(self) -> int:
        return len(self.data.images)

    def load(self, index: int, seed: int) -> MaskedSample:
        """One augmented image with its mask."""
        image, mask = _load(self.data, index)
        ignore_index = self.data.classes.ignore_index
        frame, placed = augment_masked(image, mask, self.preprocess, self.augmentation, ignore_index, seed)
        return MaskedSample(frame, placed, str(self.data.images[index].path))


class MaskedEvaluationImages(EvaluationSamples):
    """Images by index, as the runtime would see them, with their masks at source size."""

    def __init__(self, data: MaskedData, preprocess: Preprocess, policy: BadImagePolicy, stage: str) -> None:
        super().__init__(policy, stage)
        self.data, self.preprocess = data, preprocess

    def __len__(self) -> int:
        return len(self.data.images)

    def load(self, index: int) -> MaskedSample:
        """One image with its mask, its placement and its truth."""
        image, mask = _load(self.data, index)
        frame, placement = fit_image(image, self.preprocess)
        placed = place_mask(mask, placement, self.preprocess.size, self.data.classes.ignore_index)
        return MaskedSample(frame, placed, str(self.data.images[index].path), placement, mask)


def _load(data: MaskedData, index: int) -> tuple[NDArray[np.uint8], Mask]:
    path = data.images[index].path
    pixels, mask = load_image(path), data.load_mask(index)
    check_mask_size(path, mask, (pixels.shape[0], pixels.shape[1]))
    return pixels, mask


def collate_masked(samples: list[MaskedSample]) -> SegmentationBatch:
    """Stack images and masks."""
    return SegmentationBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        masks=torch.from_numpy(np.stack([sample.mask for sample in samples])),
        placements=[sample.placement for sample in samples if sample.placement is not None],
        truths=[sample.truth for sample in samples if sample.truth is not None],
        paths=tuple(sample.path for sample in samples),
    )
