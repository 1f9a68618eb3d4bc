import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks
from pytorch_lightning.utilities import move_data_to_device

from autotimm.data import InstanceSegmentationDataModule
from autotimm.data.batch import InstanceBatch
from autotimm.runtime.errors import ConfigError, DataError, DataWarning
from autotimm.runtime.preprocess import Preprocess

PREPROCESS = Preprocess((64, 64), fit="letterbox")
GREY, SQUARE = 114, (10, 12, 40, 32)


def annotation(number: int, image: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
    row = {"id": number, "image_id": image, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
    return {**row, "area": (x2 - x1) * (y2 - y1), "segmentation": [polygon], **more}


def write(root: Path, split: str, rows: list[dict[str, Any]], size: tuple[int, int] = (80, 48)) -> None:
    """White squares on black, three images: two squares; one beside a crowd; none."""
    (root / "images" / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = []
    for index in range(3):
        pixels = np.zeros((48, 80, 3), dtype=np.uint8)
        for row in rows:
            if row["image_id"] == index and not row["iscrowd"]:
                x, y, width, height = (int(side) for side in row["bbox"])
                pixels[y : y + height, x : x + width] = 255
        Image.fromarray(pixels).save(root / "images" / split / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": size[0], "height": size[1]})
    content = {"images": images, "annotations": rows, "categories": [{"id": 3, "name": "square"}]}
    (root / "annotations" / f"{split}.json").write_text(json.dumps(content))


def rows() -> list[dict[str, Any]]:
    crowd = np.zeros((48, 80), dtype=np.uint8, order="F")
    crowd[30:, 50:] = 1
    encoded = coco_masks.encode(crowd)
    segmentation = {"size": [48, 80], "counts": encoded["counts"].decode()}
    return [
        annotation(1, 0, SQUARE),
        annotation(2, 0, (50, 4, 72, 20)),
        annotation(3, 1, (44, 8, 76, 40)),
        annotation(4, 1, (50, 30, 80, 48), iscrowd=1, segmentation=segmentation),
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write(tmp_path, split, rows())
    return tmp_path


def module(root: Path, **arguments: Any) -> InstanceSegmentationDataModule:
    data = InstanceSegmentationDataModule(root, **{"batch_size": 3, "num_workers": 0, **arguments})
    data.use_preprocess(PREPROCESS)
    return data


@pytest.mark.parametrize("augmentation", ["default", "light", "none"])
@pytest.mark.parametrize("workers", [0, 1])
def test_masks_and_boxes_stay_on_their_objects(root: Path, augmentation: str, workers: int) -> None:
    """An object is white, what is around it black or padding: a mask that is off by two pixels would show."""
    data = module(root, augmentation=augmentation, num_workers=workers)
    seen = 0
    for _ in range(1 if workers else 8):
        (batch,) = data.train_dataloader()
        assert isinstance(batch, InstanceBatch)
        for image, boxes, labels, masks in zip(batch.images, batch.boxes, batch.labels, batch.masks, strict=True):
            assert len(boxes) == len(labels) == len(masks.places)
            bright = image.float().mean(dim=2)
            whole = masks.sample(
                torch.tensor([[0.0, 0.0, 64.0, 64.0]]).repeat(len(boxes), 1), torch.arange(len(boxes)), 32, (64, 64)
            )
            for box, place, mask in zip(boxes.round().int().tolist(), masks.places.tolist(), whole, strict=True):
                x1, y1, x2, y2 = box
                top, left, height, width = place
                assert abs(top - y1) + abs(left - x1) + abs(top + height - y2) + abs(left + width - x2) <= 4
                outside = torch.nn.functional.avg_pool2d(bright[None], 2)[0]
                assert outside[mask > 0.9].median() > 150
                seen += 1
    assert seen >= (3 if workers else 12)


def test_the_same_seed_gives_the_same_masks(root: Path) -> None:
    one, other = (next(iter(module(root, seed=5).train_dataloader())) for _ in range(2))
    for mine, yours in zip(one.masks, other.masks, strict=True):
        assert torch.equal(mine.pixels, yours.pixels)
        assert torch.equal(mine.places, yours.places)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools' own arrays
def test_validation_has_the_masks_of_the_file(root: Path) -> None:
    data = module(root)
    (batch,) = data.val_dataloader()
    assert [len(truth.masks) for truth in batch.truths] == [2, 2, 0]
    assert batch.truths[1].crowd.tolist() == [False, True]
    assert [len(boxes) for boxes in batch.boxes] == [2, 1, 0]
    decoded = coco_masks.decode(batch.truths[0].masks[0])
    x1, y1, x2, y2 = SQUARE
    assert decoded.shape == (48, 80)
    assert decoded.sum() == decoded[y1:y2, x1:x2].sum() == (x2 - x1) * (y2 - y1)
    assert batch.masks == []
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.images.device.type == "meta"
    assert moved.truths[0].boxes.device.type == "cpu"
    paths = [str(path) for path, _ in data.validation_samples()]
    assert paths == list(batch.paths)


def test_bad_masks_are_counted_and_refused_or_left_out(root: Path) -> None:
    bad = [annotation(5, 2, SQUARE, segmentation=[[1, 2, 3, 4]]), annotation(6, 2, SQUARE, segmentation=None)]
    write(root, "train", [*rows(), *bad])
    with pytest.raises(
        DataError, match=r"1 polygons with fewer than three points.*2\.png \(id 5\).*1 annotations with"
    ):
        module(root).train_dataloader()
    with pytest.warns(DataWarning, match="1 polygons"):
        (batch,) = module(root, bad_annotations="skip", augmentation="none").train_dataloader()
    assert sorted(len(boxes) for boxes in batch.boxes) == [0, 1, 2]


def test_images_of_another_size_than_annotated(root: Path) -> None:
    for path in (root / "images" / "train").iterdir():
        Image.new("RGB", (48, 80)).save(path)
    with pytest.raises(DataError, match="annotations are for 80 x 48"):
        next(iter(module(root).train_dataloader()))


def test_augmentations_without_masks_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="default, light, none"):
        InstanceSegmentationDataModule(root, augmentation="randaugment")
