import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.utilities import move_data_to_device

from autotimm.data import DetectionDataModule
from autotimm.data.batch import DetectionBatch
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

PREPROCESS = Preprocess((64, 64), fit="letterbox", align="top_left", antialias=False)


def write_split(root: Path, split: str, count: int, categories: tuple[tuple[int, str], ...]) -> None:
    random = np.random.default_rng(len(split))
    (root / "images" / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": category, "name": name} for category, name in categories],
    }
    for index in range(count):
        pixels = random.integers(0, 256, (40, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
        content["images"].append({"id": index, "file_name": f"{index}.png", "width": 80, "height": 40})
        for number in range(index):  # the first image stays empty
            content["annotations"].append(
                {
                    "image_id": index,
                    "category_id": categories[number % len(categories)][0],
                    "bbox": [10 + number, 4, 30, 30],
                    "area": 500,
                    "iscrowd": int(number == 2),
                }
            )
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", 5, ((2, "nut"), (5, "bolt")))
    write_split(tmp_path, "val", 4, ((2, "nut"), (5, "bolt")))
    return tmp_path


def test_validation_batches(root: Path) -> None:
    data = DetectionDataModule(root, batch_size=4, num_workers=0)
    data.use_preprocess(PREPROCESS)
    (batch,) = data.val_dataloader()
    assert batch.images.shape == (4, 64, 64, 3)
    assert batch.paths == tuple(str(path) for path, _ in data.validation_samples())
    assert [len(boxes) for boxes in batch.boxes] == [0, 1, 2, 2]  # without the crowd
    assert [len(truth.boxes) for truth in batch.truths] == [0, 1, 2, 3]
    assert batch.truths[3].crowd.tolist() == [False, False, True]
    assert batch.truths[3].area.tolist() == [500, 500, 500]
    for (path, truth), image, placement, seen in zip(
        data.validation_samples(), batch.images.numpy(), batch.placements, batch.truths, strict=True
    ):
        expected, where = fit_image(load_image(path), PREPROCESS)
        np.testing.assert_array_equal(image, expected)
        assert placement == where
        assert torch.equal(truth.boxes, seen.boxes)
    back = batch.placements[2].to_source(batch.boxes[2].numpy())
    np.testing.assert_allclose(back, batch.truths[2].boxes, atol=1e-4)
    assert batch.truths[2].boxes.tolist() == [[10, 4, 40, 34], [11, 4, 41, 34]]


def test_classes_and_their_ids(root: Path) -> None:
    data = DetectionDataModule(root)
    assert data.class_names == ("nut", "bolt")
    assert data.category_ids == (2, 5)


@pytest.mark.parametrize("augmentation", ["default", "light", "none"])
def test_training_batches_do_not_depend_on_the_workers(root: Path, augmentation: str) -> None:
    batches: list[list[DetectionBatch]] = []
    for workers in (0, 2):
        data = DetectionDataModule(root, batch_size=2, num_workers=workers, augmentation=augmentation, seed=7)
        data.use_preprocess(PREPROCESS)
        loader = data.train_dataloader()
        batches.append([batch for _ in range(2) for batch in loader])
    assert len(batches[0]) == 4
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        for first, second in zip(one.boxes + one.labels, other.boxes + other.labels, strict=True):
            assert torch.equal(first, second)
        assert (one.placements, one.truths) == ([], [])
        assert len(one.paths) == len(one.boxes)
        assert one.paths == other.paths
        assert all(boxes.dtype == torch.float32 for boxes in one.boxes)
        assert all(labels.dtype == torch.int64 for labels in one.labels)


def test_a_batch_moves_to_a_device_but_its_truths(root: Path) -> None:
    data = DetectionDataModule(root, batch_size=4, num_workers=0)
    data.use_preprocess(PREPROCESS)
    (batch,) = data.val_dataloader()
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, DetectionBatch)
    assert {moved.images.device.type, *(boxes.device.type for boxes in moved.boxes)} == {"meta"}
    assert moved.truths[3].boxes.device.type == "cpu"
    assert moved.placements == batch.placements


def test_one_split_can_be_evaluated_alone(root: Path) -> None:
    (root / "annotations" / "val.json").unlink()
    data = DetectionDataModule(root, val_annotations=root / "annotations" / "train.json", num_workers=0)
    assert len(data.validation_samples()) == 5
    with pytest.raises(DataError, match="val_annotations"):
        DetectionDataModule(root).validation_samples()
    with pytest.raises(DataError, match="no such folder"):
        DetectionDataModule(root / "none").validation_samples()


def test_splits_must_agree_on_their_categories(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 2, ((2, "nut"),))
    write_split(tmp_path, "val", 2, ((2, "nut"), (9, "washer")))
    data = DetectionDataModule(tmp_path)
    with pytest.raises(DataError, match=r"only in validation: washer \(id 9\)"):
        data.setup("fit")


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_of_another_size_than_annotated_are_named(root: Path, split: str) -> None:
    for path in (root / "images" / split).iterdir():
        Image.new("RGB", (40, 80)).save(path)
    data = DetectionDataModule(root, batch_size=2, num_workers=0)
    data.use_preprocess(PREPROCESS)
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    with pytest.raises(DataError, match=r"\d\.png: is 40 x 80 .* annotations are for 80 x 40"):
        next(iter(loader))


def test_a_corrupt_image_is_named(root: Path) -> None:
    for path in (root / "images/train").iterdir():
        path.write_bytes(b"")
    data = DetectionDataModule(root, batch_size=2, num_workers=0)
    data.use_preprocess(PREPROCESS)
    with pytest.raises(DataError, match=r"training image .*\d\.png"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_can_be_passed_over(root: Path, workers: int) -> None:
    for split in ("train", "val"):
        (root / "images" / split / "1.png").write_bytes(b"")
        Image.new("RGB", (40, 80)).save(root / "images" / split / "2.png")
    data = DetectionDataModule(root, batch_size=5, num_workers=workers, augmentation="none", bad_images="skip")
    data.use_preprocess(PREPROCESS)
    with pytest.warns(DataWarning) as caught:
        (batch,) = data.train_dataloader()
    assert len(caught) == 2
    assert sorted(Path(path).name for path in batch.paths) == ["0.png", "3.png", "3.png", "3.png", "4.png"]
    assert [len(boxes) for boxes in batch.boxes] == [len(labels) for labels in batch.labels]
    with pytest.warns(DataWarning) as caught:
        (batch,) = data.val_dataloader()
    assert ["annotations are for" in str(warning.message) for warning in caught] == [False, True]
    assert [Path(path).name for path in batch.paths] == ["0.png", "3.png"]
    assert (len(batch.truths), len(batch.placements)) == (2, 2)


def test_augmentation_that_would_lose_the_boxes(root: Path) -> None:
    with pytest.raises(ConfigError, match="default, light, none"):
        DetectionDataModule(root, augmentation="randaugment")


def test_bad_annotations_meet_a_data_module_when_it_is_set_up(root: Path) -> None:
    """Counted and named; then refused, or left out, and everything else is trained on."""
    file = root / "annotations" / "train.json"
    content = json.loads(file.read_text())
    boxes = [[5, 5, 0, 4], [5, 5, 4, -1], [float("nan"), 0, 4, 4]]
    content["annotations"] += [{"image_id": 0, "category_id": 2, "bbox": box} for box in boxes]
    content["annotations"].append({"image_id": 0, "category_id": 99, "bbox": [1, 1, 9, 9]})
    content["images"].append({"id": 70, "file_name": "gone.png", "width": 80, "height": 40})
    file.write_text(json.dumps(content))
    kinds = ("2 boxes of no positive size", "1 boxes", "1 annotations with category ids", "99", "1 images.*gone.png")
    with pytest.raises(DataError, match="bad_annotations='skip'") as refused:
        DetectionDataModule(root).setup("fit")
    data = DetectionDataModule(root, batch_size=5, num_workers=0, augmentation="none", bad_annotations="skip")
    with pytest.warns(DataWarning, match="left out") as told:
        data.setup("fit")
    assert len(told) == 1
    for kind in kinds:
        for message in (str(refused.value), str(told[0].message)):
            assert re.search(kind, message), (kind, message)
    data.use_preprocess(PREPROCESS)
    (batch,) = data.train_dataloader()
    assert sorted(len(boxes) for boxes in batch.boxes) == [0, 1, 2, 2, 3]  # without the crowd; the first has none left
    file.write_text(json.dumps(content)[:300])
    for policy in ("refuse", "skip"):
        with pytest.raises(DataError, match="cut off"):
            DetectionDataModule(root, bad_annotations=policy).setup("fit")
