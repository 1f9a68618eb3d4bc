"""``DetectionDataModule``: images with boxes, in whatever format, as batches of pixels and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from autotimm.data.bad_annotations import BadAnnotations
from autotimm.data.bad_images import TrainingSamples
from autotimm.data.batch import GroundTruth
from autotimm.data.box_csv import BoxColumns
from autotimm.data.box_formats import NAMED_BY_OBJECTS, check_box_format, find_format, formats_there, read_boxed
from autotimm.data.box_transforms import check_box_augmentation
from autotimm.data.boxed import BoxedData
from autotimm.data.boxed_samples import ComposedImages, EvaluationImages, TrainingImages, collate_boxed, ground_truth
from autotimm.data.module import VisionDataModule
from autotimm.data.samplers import BatchPlan
from autotimm.data.tables import IMAGE_COLUMN, LABEL_COLUMN
from autotimm.data.yolox_recipe import YOLOXAugmentation, YOLOXPlan
from autotimm.horizon import RecipeLengths
from autotimm.runtime.errors import ConfigError, DataError


class DetectionDataModule(VisionDataModule):
    """Images with boxes, annotated in COCO JSON, CSV, Pascal VOC or YOLO text files.

    These layouts are found by themselves; other places can be given. A split is read when it is first needed, so that
    a data set of one split can be evaluated.

    - COCO: ``annotations/SPLIT.json`` with ``images/SPLIT``, ``annotations/instances_SPLIT2017.json`` with
      ``SPLIT2017``, and the like.
    - CSV: ``SPLIT.csv`` with a row for each box; a row with empty box cells names an image without objects.
    - Pascal VOC: ``ImageSets/Main/SPLIT.txt`` with ``Annotations`` and ``JPEGImages``. Its pixels count from 1 and its
      boxes include both ends, which is allowed for; its difficult objects are treated as COCO's crowds.
    - YOLO: ``images/SPLIT`` with ``labels/SPLIT`` (or ``SPLIT/images`` with ``SPLIT/labels``), and the class names in
      ``data.yaml`` or ``classes.txt``.

    Args:
        root: the folder of the data set.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        format: ``coco``, ``csv``, ``voc`` or ``yolo``; ``auto`` recognises it by what is there.
        train_annotations: annotation file of the training split: COCO's JSON, the CSV file, VOC's list of images, or
            YOLO's file of class names.
        val_annotations: annotation file of the validation split.
        train_images: folder that the file names in ``train_annotations`` are relative to.
        val_images: the same for ``val_annotations``.
        image_column: of CSV files, with the path of the image.
        box_columns: of CSV files, with xmin, ymin, xmax and ymax, in pixels.
        label_column: of CSV files, with the class of the box.
        augmentation: ``default``, ``light``, ``none``; or ``yolox``, the official YOLOX recipe for the size of the
            model that is trained, with mosaic, mixup and batches of changing size. ``auto`` is what the recipe of that
            model says: ``yolox`` for :class:`YOLOXDetector`, ``default`` for others. Settings of your own are a
            :class:`YOLOXAugmentation`, or ``{"yolox": {"mixup": 0.0}}`` with those that the model's recipe has
            otherwise.
        image_cache: MiB of decoded images that each process keeps for the ``yolox`` augmentation, which needs most of
            them several times.
        seed: of the order and the augmentation.
        bad_images: ``refuse`` stops at an image that cannot be read or is of another size than annotated; ``skip``
            passes over it with a warning: training takes the next one in its place, evaluation leaves it out.
        bad_annotations: ``refuse`` ends with an error that counts and names annotations that cannot be used (boxes
            that are no boxes or outside their image, classes that are not known, missing images, ...); ``skip`` leaves
            them out, with one warning.
    """

    kind = "detection"

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        *,
        format: str = "auto",  # noqa: A002 - the word for it
        train_annotations: str | Path | None = None,
        val_annotations: str | Path | None = None,
        train_images: str | Path | None = None,
        val_images: str | Path | None = None,
        image_column: str = IMAGE_COLUMN,
        box_columns: Sequence[str] = ("xmin", "ymin", "xmax", "ymax"),
        label_column: str = LABEL_COLUMN,
        augmentation: str | Mapping[str, Any] | YOLOXAugmentation = "auto",
        image_cache: int = 256,
        seed: int = 0,
        bad_images: str = "refuse",
        bad_annotations: str = "refuse",
    ) -> None:
        super().__init__(root, image_size, batch_size, num_workers, seed=seed, bad_images=bad_images)
        self.format = check_box_format(format)
        self.columns = BoxColumns(image_column, tuple(box_columns), label_column)
        self.augmentation = _checked_augmentation(augmentation)
        if image_cache < 0:
            raise ConfigError(f"image_cache is {image_cache}, but must be a number of MiB, 0 for none")
        self.image_cache = image_cache
        self.bad_annotations = BadAnnotations(bad_annotations).policy
        self._annotations = {"train": _path(train_annotations), "val": _path(val_annotations)}
        self._images = {"train": _path(train_images), "val": _path(val_images)}
        self.collate = collate_boxed

    @cached_property
    def _train(self) -> BoxedData:
        return self._read("train")

    @cached_property
    def _val(self) -> BoxedData:
        kind = self._format_of("val")
        of_training = kind in NAMED_BY_OBJECTS and self._has("train")
        return self._read("val", self._train.class_names if of_training else None)

    def _format_of(self, split: str) -> str:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder")
        return self.format or find_format(self.root, split, self._annotations[split], self.columns)

    def _has(self, split: str) -> bool:
        if self._annotations[split] is not None:
            return True
        there = formats_there(self.root, split, self.columns)
        return self.format in there if self.format else bool(there)

    def _read(self, split: str, class_names: Sequence[str] | None = None) -> BoxedData:
        return read_boxed(
            self.root,
            split,
            format=self.format,
            annotations=self._annotations[split],
            images=self._images[split],
            columns=self.columns,
            bad_annotations=self.bad_annotations,
            class_names=class_names,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the categories in the order of their ids; sorted where there are only names."""
        return self._val.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The number of each class in the annotations, for writing results."""
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

    @property
    def recipe(self) -> YOLOXAugmentation | None:
        """The settings of the YOLOX augmentation: those given, else the model's, else the official ones of YOLOX-s.

        ``None`` with another augmentation; with ``auto`` also where the model has no such recipe.
        """
        given = self.augmentation
        if isinstance(given, YOLOXAugmentation):
            return given
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        of_model: YOLOXAugmentation | None = (
            model.recipe_augmentation() if hasattr(model, "recipe_augmentation") else None
        )
        if given == "auto":
            return of_model
        if isinstance(given, Mapping):
            return (of_model or YOLOXAugmentation()).changed(given["yolox"])
        return of_model or YOLOXAugmentation() if given == "yolox" else None

    def _train_dataset(self) -> TrainingSamples:
        images, policy = self._train.images, self.bad_images.policy
        recipe = self.recipe
        if recipe is not None:
            return ComposedImages(images, self.preprocess, recipe, policy, self.image_cache << 20)
        name = "default" if self.augmentation == "auto" else str(self.augmentation)
        return TrainingImages(images, self.preprocess, check_box_augmentation(name), policy)

    def _val_dataset(self) -> EvaluationImages:
        return EvaluationImages(self._val.images, self.preprocess, self.bad_images.policy)

    def _batch_plan(self) -> BatchPlan | None:
        recipe = self.recipe
        if recipe is None:
            return None
        trainer = self.trainer
        lengths = RecipeLengths(recipe.total_epochs, 0.0, recipe.no_aug_epochs)
        blocks = max(1, len(self._train.images) // (self.batch_size * self._rank_and_world_size()[1]))

        def batches() -> int:
            return blocks if trainer is None else int(trainer.num_training_batches)

        def plain_from() -> float:
            return (lengths if trainer is None else lengths.in_training(trainer)).plain_from

        return YOLOXPlan(recipe, self.preprocess.size, self.seed, batches, plain_from, self.largest_batches)


def _checked_augmentation(
    given: str | Mapping[str, Any] | YOLOXAugmentation,
) -> str | Mapping[str, Any] | YOLOXAugmentation:
    if isinstance(given, Mapping):
        if set(given) != {"yolox"} or not isinstance(given["yolox"], Mapping):
            raise ConfigError(
                f"augmentation is {dict(given)}, but settings of your own are written {{yolox: {{mixup: 0.0}}}}"
            )
        YOLOXAugmentation().changed(given["yolox"])  # what is wrong is said now, and not when there are batches
        return given
    if isinstance(given, YOLOXAugmentation) or given in ("auto", "yolox"):
        return given
    return check_box_augmentation(str(given), ("auto", "yolox"))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
