import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from autotimm.data import ImageDataModule
from autotimm.runtime.errors import ConfigError, DataError
from autotimm.runtime.preprocess import Preprocess

PREPROCESS = Preprocess((16, 16))


def idx(file: Path, array: np.ndarray) -> None:
    """MNIST's file format: two zeros, the type, the number of dimensions, their sizes, the bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """An MNIST of 50 and 20 pictures whose grey level is 10 times their digit."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 50), ("t10k", 20)):
        labels = np.arange(count) % 10
        idx(raw / f"{name}-labels-idx1-ubyte", labels)
        idx(raw / f"{name}-images-idx3-ubyte", np.ones((count, 28, 28)) * labels[:, None, None] * 10)
    return tmp_path


def module(root: Path, dataset: str, **options: object) -> ImageDataModule:
    data = ImageDataModule(root, batch_size=5, dataset=dataset, augmentation="none", num_workers=0, **options)  # type: ignore[arg-type]
    data.use_preprocess(PREPROCESS)
    return data


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_with_train_and_test(mnist: Path, workers: int) -> None:
    data = module(mnist, "MNIST")
    data.num_workers = workers
    assert data.class_names == tuple(datasets.MNIST.classes)
    counts, total = data.class_counts()
    assert (counts.tolist(), total) == ([4] * 10, 40)
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    parts = [list(loader) for loader in loaders]
    names = []
    for part, count in zip(parts, (40, 10, 20), strict=True):
        images = torch.cat([batch.images for batch in part])
        labels = torch.cat([batch.labels for batch in part])
        assert images.shape == (count, 16, 16, 3)
        assert (images == labels[:, None, None, None] * 10).all()
        names.append([path for batch in part for path in batch.paths])
    assert sorted(names[0] + names[1]) == sorted(f"MNIST train {index}" for index in range(50))
    assert names[2] == [f"MNIST test {index}" for index in range(20)]
    assert sorted(torch.cat([batch.labels for batch in parts[1]]).tolist()) == list(range(10))


def test_images_without_paths_are_given_as_pixels_and_not_remembered(mnist: Path) -> None:
    data = module(mnist, "MNIST")
    samples = data.validation_samples()
    assert len(samples) == 10
    for pixels, label in samples:
        assert isinstance(pixels, np.ndarray)
        assert (pixels.shape, pixels.dtype) == ((28, 28, 3), np.uint8)
        assert (pixels == label * 10).all()
    assert data._some_validation_images() == []


def test_a_set_with_named_splits_of_its_own(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 1)):
        for name in ("AD", "BE"):
            (tmp_path / "country211" / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (20, 20)).save(tmp_path / "country211" / split / name / f"{index}.jpg")
    data = module(tmp_path, "Country211")
    assert data.class_names == ("AD", "BE")
    assert data.class_counts()[1] == 8
    assert len(data.validation_samples()) == 4
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 2
    bad = tmp_path / "country211" / "valid" / "BE" / "1.jpg"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match="validation image Country211 val 3: cannot be decoded"):
        list(data.val_dataloader())


def test_a_set_without_splits_is_parted(tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        (tmp_path / "eurosat" / "2750" / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (20, 20)).save(tmp_path / "eurosat" / "2750" / name / f"{index}.jpg")
    data = module(tmp_path, "EuroSAT")
    assert [label for _, label in data.validation_samples()] == [0, 1]
    assert data.class_counts()[0].tolist() == [4, 4]
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 2  # the validation split


@pytest.mark.parametrize("name", ["CIFAR10", "MNIST", "OxfordIIITPet", "EuroSAT"])
def test_a_set_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"torchvision finds no {name} there .*download=True") as caught:
        module(tmp_path, name).class_names  # noqa: B018
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CIFAR11", "did you mean CIFAR10"),
        ("PhotoTour", "needs more than root and split"),
        ("FakeData", "no data set of torchvision 'FakeData'"),
    ],
)
def test_sets_that_cannot_be_used(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        module(tmp_path, name).class_names  # noqa: B018
