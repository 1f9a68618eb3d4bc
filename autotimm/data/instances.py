"""``InstanceSegmentationDataModule``: images with a mask for each object, as batches of pixels, boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotimm.data.box_formats import read_boxed
from autotimm.data.box_transforms import check_box_augmentation
from autotimm.data.boxed import BoxedData
from autotimm.data.detection import DetectionDataModule
from autotimm.data.instance_samples import (
    EvaluationInstances,
    TrainingInstances,
    collate_instances,
    instance_truth,
)


class InstanceSegmentationDataModule(DetectionDataModule):
    """Images whose objects have masks, annotated in COCO JSON: polygons, or RLE of either kind.

    The layouts are those of ``DetectionDataModule``: ``annotations/SPLIT.json`` with ``images/SPLIT``,
    ``annotations/instances_SPLIT2017.json`` with ``SPLIT2017``, and the like; other places can be given. Crowds are
    never targets of training, and neither count nor harm in evaluation. Masks are kept as RLE, a few hundred bytes
    each, until their image is loaded.

    Args:
        root: the folder of the data set.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        train_annotations: COCO JSON of the training split.
        val_annotations: COCO JSON of the validation split.
        train_images: folder that the file names in ``train_annotations`` are relative to.
        val_images: the same for ``val_annotations``.
        augmentation: ``default``: flips, scaling, moving, colours; ``light``: flips; ``none``. Masks go with the boxes.
        seed: of the order and the augmentation.
        bad_images: ``refuse`` stops at an image that cannot be read or is of another size than annotated; ``skip``
            passes over it with a warning: training takes the next one in its place, evaluation leaves it out.
        bad_annotations: ``refuse`` ends with an error that counts and names annotations that cannot be used (polygons
            with fewer than three points, empty masks, RLE of another size or cut off, masks that are not in their box,
            and what ``DetectionDataModule`` finds); ``skip`` leaves them out, with one warning.
    """

    kind = "instance_segmentation"

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
        bad_annotations: str = "refuse",
    ) -> None:
        super().__init__(
            root,
            image_size,
            batch_size,
            num_workers,
            format="coco",
            train_annotations=train_annotations,
            val_annotations=val_annotations,
            train_images=train_images,
            val_images=val_images,
            augmentation=check_box_augmentation(augmentation),
            seed=seed,
            bad_images=bad_images,
            bad_annotations=bad_annotations,
        )
        self.collate = collate_instances

    def _read(self, split: str, class_names: Sequence[str] | None = None) -> BoxedData:
        return read_boxed(
            self.root,
            split,
            format="coco",
            annotations=self._annotations[split],
            images=self._images[split],
            bad_annotations=self.bad_annotations,
            class_names=class_names,
            masks=True,
        )

    def validation_samples(self) -> list[tuple[Path, Any]]:
        """Path and annotated objects, masks included, of each validation image."""
        return [(image.path, instance_truth(image)) for image in self._val.images]

    def _train_dataset(self) -> TrainingInstances:
        augmentation = check_box_augmentation(str(self.augmentation))
        return TrainingInstances(self._train.images, self.preprocess, augmentation, self.bad_images.policy)

    def _val_dataset(self) -> EvaluationInstances:  # type: ignore[override]
        return EvaluationInstances(self._val.images, self.preprocess, self.bad_images.policy)
