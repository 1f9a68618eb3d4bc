"""``MultiLabelImageDataModule``: images of any number of classes as batches of pixels and 0 or 1 for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotimm.data.classification import LabelledDataModule
from autotimm.data.csv_data import read_multi_label_data
from autotimm.data.labelled import LabelledData
from autotimm.data.tables import IMAGE_COLUMN, SEPARATOR, LabelColumns
from autotimm.data.transforms import ImageTransform


class MultiLabelImageDataModule(LabelledDataModule):
    """Images listed in CSV files with any number of classes each.

    A file has a column of image paths and either a column of 0 and 1 for each class, or one column that names the
    classes of an image. Labels are float32 ``[N, C]``. Where there is no file for validation, a part in which every
    class keeps its share is held out.

    Args:
        root: the folder that the image paths are taken from.
        image_size: side or ``(height, width)`` of the network input; the model's own where absent.
        batch_size: images a batch, in each process.
        num_workers: processes that decode images; chosen by the number of cores where absent.
        train_csv: the CSV file to train on.
        val_csv: the same for validation.
        test_csv: the same for the test.
        image_column: of the paths.
        label_columns: of 0 and 1; all other columns where absent.
        label_column: instead of these, the column of names; an empty cell is an image of no class.
        label_separator: between the names.
        augmentation: as of :class:`ImageDataModule`.
        transforms: as of :class:`ImageDataModule`.
        val_fraction: part that is held out where there is no ``val_csv``.
        seed: of the held-out part, the order and the augmentation.
        bad_images: as of :class:`ImageDataModule`.
    """

    kind = "multi-label classification"

    def __init__(
        self,
        root: str | Path,
        image_size: int | tuple[int, int] | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        *,
        train_csv: str | Path,
        val_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        image_column: str = IMAGE_COLUMN,
        label_columns: Sequence[str] | None = None,
        label_column: str | None = None,
        label_separator: str = SEPARATOR,
        augmentation: str = "default",
        transforms: ImageTransform | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
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
        columns = None if label_columns is None else tuple(label_columns)
        self.layout = LabelColumns(image_column, columns, label_column, label_separator)
        self.val_fraction = val_fraction

    def _read(self) -> LabelledData:
        return read_multi_label_data(self.root, self.files, self.layout, self.val_fraction, self.seed)
