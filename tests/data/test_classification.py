from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.data import ImageDataModule
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

PREPROCESS = Preprocess((32, 48), fit="crop", interpolation="bicubic", crop_fraction=0.9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    return tmp_path


def test_validation_pixels_are_the_runtimes(folder: Path) -> None:
    data = ImageDataModule(folder, batch_size=4, num_workers=0)
    data.use_preprocess(PREPROCESS)
    batches = list(data.val_dataloader())
    assert [batch.images.shape for batch in batches] == [(4, 32, 48, 3), (2, 32, 48, 3)]
    assert batches[0].images.dtype == torch.uint8
    pixels = torch.cat([batch.images for batch in batches]).numpy()
    labels = torch.cat([batch.labels for batch in batches])
    assert [name for batch in batches for name in batch.paths] == [str(path) for path, _ in data.validation_samples()]
    assert labels.dtype == torch.int64
    for (path, label), image, seen in zip(data.validation_samples(), pixels, labels.tolist(), strict=True):
        assert label == seen
        np.testing.assert_array_equal(image, fit_image(load_image(path), PREPROCESS)[0])


@pytest.mark.parametrize("augmentation", ["default", "light", "none"])
def test_training_batches_do_not_depend_on_the_workers(folder: Path, augmentation: str) -> None:
    batches = []
    for workers in (0, 2):
        data = ImageDataModule(folder, batch_size=5, num_workers=workers, augmentation=augmentation, seed=7)
        data.use_preprocess(PREPROCESS)
        torch.manual_seed(workers)  # must not matter
        loader = data.train_dataloader()
        batches.append([batch for _ in range(2) for batch in loader])
    assert len(batches[0]) == 4
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.paths == other.paths
        assert [Path(path).parent.name for path in one.paths] == [data.class_names[label] for label in one.labels]


def test_image_size_replaces_the_models(folder: Path) -> None:
    data = ImageDataModule(folder, image_size=24, batch_size=2, num_workers=0)
    data.use_preprocess(PREPROCESS)
    assert data.preprocess.size == (24, 24)
    assert data.preprocess.crop_fraction == 0.9
    assert next(iter(data.train_dataloader())).images.shape == (2, 24, 24, 3)
    assert ImageDataModule(folder, image_size=(16, 24)).image_size == (16, 24)


def test_class_names(folder: Path) -> None:
    assert ImageDataModule(folder).class_names == ("cat", "dog")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_corrupt_image_is_named(folder: Path, split: str, workers: int) -> None:
    bad = folder / split / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = ImageDataModule(folder, batch_size=2, num_workers=workers)
    data.use_preprocess(PREPROCESS)
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    with pytest.raises(DataError, match=r"image .*dog.1\.png") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used(folder: Path) -> None:
    with pytest.raises(ConfigError, match="use_preprocess"):
        ImageDataModule(folder).train_dataloader()
    with pytest.raises(ConfigError, match="augmentation"):
        ImageDataModule(folder, augmentation="stronger")
    with pytest.raises(ConfigError, match="image_size"):
        ImageDataModule(folder, image_size=(1, 2, 3))
    only_val = ImageDataModule(folder / "val", val_fraction=1.0)
    only_val.use_preprocess(PREPROCESS)
    with pytest.raises(DataError, match="no images to train on"):
        only_val.train_dataloader()
