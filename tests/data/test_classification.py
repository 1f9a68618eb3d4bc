import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.data import ImageDataModule
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
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


@pytest.mark.parametrize("augmentation", ["default", "light", "none", "strong", "randaugment", "rand-m9-mstd0.5-inc1"])
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


def ready(root: Path, **options: Any) -> ImageDataModule:
    data = ImageDataModule(root, **{"batch_size": 2, "num_workers": 0, **options})
    data.use_preprocess(PREPROCESS)
    return data


def test_what_says_what_the_data_is_must_be_one_thing(folder: Path) -> None:
    with pytest.raises(ConfigError, match="CSV files or the dataset"):
        ImageDataModule(folder, train_csv="a.csv", dataset="CIFAR10")
    with pytest.raises(ConfigError, match="no train_csv"):
        ImageDataModule(folder, val_csv="a.csv")
    with pytest.raises(ConfigError, match="not both"):
        ImageDataModule(folder, augmentation="light", transforms=lambda image: image)
    with pytest.raises(ConfigError, match="must be a callable"):
        ImageDataModule(folder, transforms="flip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="bad_images"):
        ImageDataModule(folder, bad_images="ignore")
    with pytest.raises(DataError, match="no such folder"):
        ImageDataModule(folder / "none", train_csv="a.csv").class_names  # noqa: B018


def test_images_in_csv_files(folder: Path) -> None:
    lines = [f"train/{name}/{index}.png,{name}" for name in ("dog", "cat") for index in range(5)]
    (folder / "list.csv").write_text("\n".join(["path,animal", *lines]))
    data = ready(folder, train_csv="list.csv", image_column="path", label_column="animal", augmentation="none")
    assert data.class_names == ("cat", "dog")
    assert [(path.parent.name, label) for path, label in data.validation_samples()] == [("dog", 1), ("cat", 0)]
    counts, total = data.class_counts()
    assert (counts.tolist(), counts.dtype, total) == ([4, 4], np.int64, 8)
    seen = [
        (path, label)
        for batch in data.train_dataloader()
        for path, label in zip(batch.paths, batch.labels, strict=True)
    ]
    assert len(seen) == 8
    assert all(Path(path).parent.name == data.class_names[label] for path, label in seen)
    assert len(data._some_validation_images()) == 2


def test_a_test_split_is_used_where_there_is_one(folder: Path) -> None:
    data = ready(folder)
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 6
    (folder / "val").rename(folder / "test")
    (folder / "train").rename(folder / "val")
    lone = ready(folder)
    assert [Path(path).parts[-3] for batch in lone.test_dataloader() for path in batch.paths] == ["test"] * 6
    (folder / "test" / "emu").mkdir()
    (folder / "test" / "dog" / "0.png").rename(folder / "test" / "emu" / "0.png")
    with pytest.raises(DataError, match=r"test: has classes that training does not: emu \(1 images\)"):
        ready(folder).test_dataloader()


def test_unlabelled_test_images_do_not_keep_from_training(folder: Path) -> None:
    (folder / "test").mkdir()
    assert len(ready(folder).train_dataloader()) == 5
    with pytest.raises(DataError, match="no class folders"):
        ready(folder).test_dataloader()


def test_balanced_sampling(folder: Path) -> None:
    for index in range(1, 5):
        (folder / "train" / "dog" / f"{index}.png").unlink()
    data = ready(folder, batch_size=6, balanced_sampling=True, augmentation="none")
    loader = data.train_dataloader()
    labels = torch.cat([batch.labels for _ in range(60) for batch in loader])
    assert len(labels) == 360
    assert 0.42 < labels.double().mean() < 0.58


def test_transforms_of_ones_own(folder: Path) -> None:
    class White:
        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return torch.full_like(image, 255)

    data = ready(folder, transforms=White())
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, 32, 48, 3)
    assert (batch.images == 255).all()
    assert (next(iter(data.val_dataloader())).images < 255).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_transforms_that_normalise_are_told_apart_from_bad_images(folder: Path, workers: int) -> None:
    data = ready(folder, transforms=torch.Tensor.float, num_workers=workers, bad_images="skip")
    with pytest.raises(ConfigError, match="normalisation belongs to the model") as caught:
        next(iter(data.train_dataloader()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_can_be_passed_over(folder: Path, workers: int) -> None:
    for split in ("train", "val"):
        (folder / split / "dog" / "1.png").write_bytes(b"no image")
    data = ready(folder, bad_images="skip", num_workers=workers, augmentation="none")
    with pytest.warns(DataWarning, match=r"training image .*dog.1\.png") as caught:
        paths = [Path(path) for batch in data.train_dataloader() for path in batch.paths]
    assert len(caught) == 1
    assert sorted(path.name for path in paths if path.parent.name == "dog") == [
        "0.png",
        "2.png",
        "2.png",
        "3.png",
        "4.png",
    ]
    with pytest.warns(DataWarning, match=r"validation image .*dog.1\.png"):
        assert sum(len(batch.labels) for batch in data.val_dataloader()) == 5
    assert len(data.bad_images.seen) == 2


def test_a_batch_larger_than_the_data_is_told_once(folder: Path) -> None:
    data = ready(folder, batch_size=64)
    with pytest.warns(UserWarning, match="batch_size=64 is more than the 10 images to train on"):
        assert [len(batch.labels) for batch in data.train_dataloader()] == [10]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data.train_dataloader()) == 1


def in_process(data: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)  # type: ignore[assignment]
    return data


def test_processes_share_the_batches_of_one(folder: Path) -> None:
    alone = ready(folder, batch_size=4, seed=3)
    parts = [in_process(ready(folder, seed=3), rank, 2) for rank in range(2)]
    pairs = list(zip(*(data.train_dataloader() for data in parts), strict=True))
    batches = list(alone.train_dataloader())
    assert len(batches) == len(pairs) == 2
    for batch, (first, second) in zip(batches, pairs, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert batch.paths == first.paths + second.paths
    loaders = [in_process(ready(folder, batch_size=2), rank, 4).val_dataloader() for rank in range(4)]
    assert len({len(list(loader)) for loader in loaders}) == 1
    own = [[path for batch in loader for path in batch.paths][: loader.sampler.own] for loader in loaders]
    assert [path for part in own for path in part] == [str(path) for path, _ in alone.validation_samples()]
    with pytest.raises(DataError, match="10 images to train on, but 11 processes"):
        in_process(ready(folder), 0, 11).train_dataloader()


def test_trashnet_by_table_equals_trashnet_by_folder(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/cls/trashnet6"
    files = sorted((root / "train").glob("*/*"))
    (tmp_path / "train.csv").write_text("image,label\n" + "".join(f"{file},{file.parent.name}\n" for file in files))
    by_folder = ready(root / "train", batch_size=8, image_size=32)
    by_table = ready(root, batch_size=8, image_size=32, train_csv=tmp_path / "train.csv")
    assert by_table.class_names == by_folder.class_names
    assert list(by_table.validation_samples()) == list(by_folder.validation_samples())
    for one, other in zip(by_table.train_dataloader(), by_folder.train_dataloader(), strict=True):
        assert one.paths == other.paths
        assert torch.equal(one.images, other.images)
        break
