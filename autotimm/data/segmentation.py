"""``SegmentationDataModule``: images with masks, in whatever format, as batches of pixels and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.box_transforms import check_box_augmentation
from autotimm.data.mask_formats import check_mask_format, mask_formats_there, read_masked
from autotimm.data.masked import MaskedData, MaskedSamples
from autotimm.data.masked_samples import MaskedEvaluationImages, MaskedTrainingImages, collate_masked
from autotimm.data.module import VisionDataModule
from autotimm.runtime.drawing import Color
from autotimm.runtime.errors import DataError


class SegmentationDataModule(VisionDataModule):
    """Images with masks: PNG files, Pascal VOC, Cityscapes, or masks that are painted of COCO's objects.

    These layouts are found by themselves; other places can be given. Every mask of a split is read once before it is
    used, so that what is wrong with any is said at the beginning.

    - PNG: ``SPLIT/images`` with ``SPLIT/masks``, or ``images/SPLIT`` with ``masks/SPLIT`` or ``annotations/SPLIT``; a
      mask has the name of its image. Its grey levels, or the indices of its palette, are numbers of classes, which
      ``classes.txt`` names, one a line; or ``class_mapping`` says what they are.
    - Pascal VOC: ``ImageSets/Segmentation/SPLIT.txt`` with ``JPEGImages`` and ``SegmentationClass``.
    - Cityscapes: ``leftImg8bit/SPLIT`` with ``gtFine/SPLIT``, files ``*_labelIds.png``; its 19 classes.
    - COCO: ``annotations/SPLIT.json`` and the like, with polygons or RLE. Class 0 is the background; where objects
      overlap, the smaller one is on top.

    A mask belongs to the upright image, as viewers and annotation tools show it: where EXIF data turn a photograph, a
    mask of the size that is stored is refused.

    Args:
        root: the folder of the data set.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        format: ``png``, ``voc``, ``cityscapes`` or ``coco``; ``auto`` recognises it by what is there.
        train_annotations: where the masks of the training split are: their folder, VOC's list or COCO's JSON file.
        val_annotations: where the masks of the validation split are.
        train_images: folder of the images that belong to ``train_annotations``.
        val_images: the same for ``val_annotations``.
        class_names: the classes in the order of their indices; where absent ``classes.txt`` or the format says them.
        class_mapping: which class a number in the masks, or a colour, is: ``{7: "road", "128, 64, 128": "road"}``;
            ``None`` for pixels to ignore. Several may be of one class.
        ignore_index: of pixels that are not labelled; also their number in masks whose numbers are class indices.
        augmentation: ``default`` (flip, scale, crop, colours), ``light`` (flip) or ``none``.
        seed: of the order and the augmentation.
        bad_images: ``refuse`` stops at an image that cannot be read; ``skip`` passes over it with a warning: training
            takes the next one in its place, evaluation leaves it out.
        bad_annotations: ``refuse`` ends with an error that counts and names what cannot be used (images without a mask,
            masks of another size, with numbers of no class, without a labelled pixel, ...); ``skip`` leaves these
            images out, with one warning.
    """

    kind = "semantic_segmentation"

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        *,
        format: str = "auto",  # noqa: A002 - the word for it
        train_annotations: str | Path | None = None,
        val_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_images: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        class_mapping: Mapping[Any, Any] | None = None,
        ignore_index: int = 255,
        augmentation: str = "default",
        seed: int = 0,
        bad_images: str = "refuse",
        bad_annotations: str = "refuse",
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed=seed, bad_images=bad_images)
        self.format = check_mask_format(format)
        self.given_names = None if class_names is None else tuple(class_names)
        self.class_mapping = class_mapping
        self.ignore_index = ignore_index
        self.augmentation = check_box_augmentation(augmentation)
        self.bad_annotations = BadAnnotations(bad_annotations).policy
        self._annotations = {"train": train_annotations, "val": val_annotations}
        self._images = {"train": train_images, "val": val_images}
        self.collate = collate_masked

    @cached_property
    def _train(self) -> MaskedData:
        return self._read("train")

    @cached_property
    def _val(self) -> MaskedData:
        return self._read("val")

    @cached_property
    def _test(self) -> MaskedData | None:
        return self._read("test") if mask_formats_there(self.root, "test") else None

    def _read(self, split: str) -> MaskedData:
        annotations, images = self._annotations.get(split), self._images.get(split)
        return read_masked(
            self.root,
            split,
            format=self.format,
            annotations=None if annotations is None else Path(annotations),
            images=None if images is None else Path(images),
            class_names=self.given_names,
            class_mapping=self.class_mapping,
            ignore_index=self.ignore_index,
            bad_annotations=self.bad_annotations,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the class indices."""
        return self._val.classes.class_names

    @property
    def palette(self) -> tuple[Color, ...] | None:
        """A colour for each class, where the data has them."""
        return self._val.classes.palette

    def setup(self, stage: str) -> None:
        """Lightning's hook; before a training the model also takes over the palette.

        Raises:
            DataError: the data cannot be read, its two splits or the model have other classes, or the model another
                ignore index.
        """
        if stage == "fit" and self._train.classes.class_names != self._val.classes.class_names:
            raise DataError(
                f"{self.root}: the classes of training are {list(self._train.classes.class_names[:8])}, those of "
                f"validation {list(self._val.classes.class_names[:8])}"
            )
        super().setup(stage)
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        theirs = getattr(model, "ignore_index", self.ignore_index)
        if theirs != self.ignore_index:
            raise DataError(
                f"{self.root}: ignore_index of the data is {self.ignore_index}, but the model's is {theirs}; give both "
                "the same"
            )
        if stage == "fit" and hasattr(model, "palette"):
            model.palette = self.palette

    def validation_samples(self) -> MaskedSamples:
        """Path and mask, at source size, of each validation image."""
        return MaskedSamples(self._val)

    def _train_dataset(self) -> MaskedTrainingImages:
        return MaskedTrainingImages(self._train, self.preprocess, self.augmentation, self.bad_images.policy)

    def _val_dataset(self) -> MaskedEvaluationImages:
        return MaskedEvaluationImages(self._val, self.preprocess, self.bad_images.policy, "validation")

    def _test_dataset(self) -> MaskedEvaluationImages | None:
        if self._test is None:
            return None
        return MaskedEvaluationImages(self._test, self.preprocess, self.bad_images.policy, "test")
