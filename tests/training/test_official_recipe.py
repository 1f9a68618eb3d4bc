"""A YOLOX trained with nothing but defaults has the official recipe: against the reference data and published numbers.

What is measured here is what comes out of a training; loss, assignments, gradients and batch norm are measured in
``tests/losses/test_yolox_official.py``. docs/detection.md lists all elements.
"""

import colorsys
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autotimm.data import DetectionDataModule
from autotimm.models import ObjectDetector, YOLOXDetector
from autotimm.training import AutoTrainer
from autotimm.training.ema import ExponentialMovingAverage

IMAGES, BATCH = 20, 2
WIDTH, HEIGHT = 320, 160
BOX = (110, 50, 60, 60)
COLOUR = (160, 120, 80)
"""Hue, saturation and value are in their middle, so that a jitter of 30 changes nothing else."""


@pytest.fixture(scope="module")
def official(request: pytest.FixtureRequest) -> dict[str, Any]:
    shared: Path = request.getfixturevalue("shared")
    return dict(json.loads((shared / "yolox/nano_train/schedule_ema_optim.json").read_text()))


def write_data(root: Path, colour: tuple[int, int, int], categories: int = 1) -> Path:
    """Images twice as wide as high, of one colour, with one square object each."""
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", IMAGES), ("val", 1)):
        (root / "images" / split).mkdir(parents=True)
        content: dict[str, Any] = {"images": [], "annotations": []}
        content["categories"] = [{"id": number, "name": f"thing {number}"} for number in range(categories)]
        for index in range(count):
            Image.new("RGB", (WIDTH, HEIGHT), colour).save(root / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": WIDTH, "height": HEIGHT})
            content["annotations"].append({"image_id": index, "category_id": 0, "bbox": list(BOX)})
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


class Recorded:
    """What a training by defaults gives its network, step by step; the network itself is left out."""

    def __init__(self, name: str, root: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, size: int | None) -> None:
        self.images: list[torch.Tensor] = []
        self.boxes: list[list[torch.Tensor]] = []
        self.l1: list[bool] = []
        self.rates: list[float] = []
        self.model = YOLOXDetector(name, 1, seed=0)
        self.data = DetectionDataModule(root, image_size=size, batch_size=BATCH, num_workers=0)
        monkeypatch.setattr(YOLOXDetector, "training_network", property(self.network))
        self.model.loss = self.loss  # type: ignore[assignment]
        self.trainer = AutoTrainer(
            max_epochs=epochs,
            default_root_dir=root / "runs",
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            logger=False,
            limit_val_batches=0,
            seed=0,
        )
        self.trainer.fit(self.model, datamodule=self.data)

    def network(self, model: YOLOXDetector) -> Any:
        def forward(pixels: torch.Tensor) -> torch.Tensor:
            self.images.append(pixels.flip(1).permute(0, 2, 3, 1).to(torch.uint8))  # the network takes BGR
            return model.network.head.obj_preds[0].bias.sum()

        return forward

    def loss(
        self, outputs: torch.Tensor, points: Any, strides: Any, boxes: Any, labels: Any, *, use_l1: bool
    ) -> dict[str, torch.Tensor]:
        self.boxes.append(boxes)
        self.l1.append(use_l1)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return {"loss": 0.0 * outputs, "num_foreground": outputs.detach()}

    @property
    def samples(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of the batch, pixels and boxes of each image."""
        for number, (images, boxes) in enumerate(zip(self.images, self.boxes, strict=True)):
            for image, its_boxes in zip(images, boxes, strict=True):
                yield number, image.numpy(), its_boxes.numpy()


def placed(image: np.ndarray, boxes: np.ndarray) -> str:
    """``plain`` or ``mirrored`` where the image has only been letterboxed, else ``composed``."""
    side = image.shape[0]
    x, y, width, height = (value * side / WIDTH for value in BOX)
    at = {"plain": [x, y, x + width, y + height], "mirrored": [side - x - width, y, side - x, y + height]}
    for name, expected in at.items():
        if len(boxes) == 1 and np.abs(boxes[0] - expected).max() < 0.6:
            return name
    return "composed"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """11 epochs of 10 batches at the official size."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = write_data(tmp_path_factory.mktemp("nano"), COLOUR)
        return Recorded("yolox-nano", root, monkeypatch, epochs=11, size=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """YOLOX-s on white images at a fifth of the official size, for it is the same for m, l and x."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = write_data(tmp_path_factory.mktemp("s"), (255, 255, 255))
        return Recorded("yolox-s", root, monkeypatch, epochs=11, size=128)


def recipe_optimizer(model: YOLOXDetector, official: dict[str, Any], images: int) -> tuple[Any, Any]:
    """Optimizer and schedule for a training as long as the reference's, with so many images a step."""
    steps = official["iters_per_epoch"]
    model._trainer = SimpleNamespace(  # type: ignore[assignment]
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        train_dataloader=SimpleNamespace(batch_size=images),
        num_training_batches=steps,
        estimated_stepping_batches=steps * official["total_epochs"],
        world_size=1,
        accumulate_grad_batches=1,
    )
    configured = model.configure_optimizers()
    return configured["optimizer"], configured["lr_scheduler"]["scheduler"]


def test_groups_of_parameters(official: dict[str, Any]) -> None:
    optimizer, _ = recipe_optimizer(YOLOXDetector("yolox-nano"), official["yoloxwarmcos"], images=64)
    ours = [
        {
            "n_tensors": len(group["params"]),
            "n_elem": sum(value.numel() for value in group["params"]),
            **{name: group[name] for name in ("weight_decay", "momentum", "nesterov")},
        }
        for group in optimizer.param_groups
    ]
    assert ours == official["sgd_param_groups_nano"]


@pytest.mark.parametrize("images", [64, 16])
def test_the_learning_rate_of_every_iteration(official: dict[str, Any], images: int) -> None:
    """Warm-up, cosine and flat end; by the number of images in a step."""
    schedule = official["yoloxwarmcos"]
    optimizer, scheduler = recipe_optimizer(YOLOXDetector("yolox-nano"), schedule, images)
    for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
        rates = [group["initial_lr"] * factor(step) for step in schedule["iters"]]
        assert rates == pytest.approx([images / 64 * rate for rate in schedule["lrs"]], rel=1e-9, abs=1e-15)


def test_a_shorter_training_has_all_of_it(nano: Recorded) -> None:
    peak = 0.01 * BATCH / 64
    assert nano.rates[0] == 0.0
    assert max(nano.rates) == pytest.approx(peak, rel=1e-2)
    assert nano.rates[-5:] == pytest.approx([0.05 * peak] * 5)  # 15 of 300 epochs are 5.5 of 110 batches
    assert nano.rates[-7] > 0.05 * peak
    assert nano.l1 == [False] * 105 + [True] * 5


def test_weights_are_averaged_by_default(official: dict[str, Any], tmp_path: Path) -> None:
    root = write_data(tmp_path, COLOUR)
    kept: list[dict[str, torch.Tensor]] = []

    class Noting(YOLOXDetector):
        def on_train_batch_end(self, *_: Any) -> None:
            kept.append({name: value.double().clone() for name, value in self.state_dict().items()})

    model = Noting("yolox-nano", 1, seed=0)
    start = {name: value.double().clone() for name, value in model.state_dict().items()}
    trainer = AutoTrainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, datamodule=DetectionDataModule(root, image_size=64, batch_size=2, num_workers=0))
    first, second = (official["ema_decay_0_9998"][updates] for updates in ("1", "2"))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            once = first * start[name] + (1 - first) * kept[0][name]
            average = second * once + (1 - second) * kept[1][name]
            torch.testing.assert_close(value.double(), average, rtol=1e-5, atol=1e-6)


def test_averages_are_the_models_to_recommend_and_the_users_to_decide(tmp_path: Path) -> None:
    def averages(model: Any, **options: Any) -> list[float]:
        trainer = AutoTrainer(default_root_dir=tmp_path, enable_progress_bar=False, accelerator="cpu", **options)
        trainer._start_run(model)
        trainer._start_run(model)  # a second training has one of its own, not two
        return [one.decay for one in trainer.callbacks if isinstance(one, ExponentialMovingAverage)]

    yolox = YOLOXDetector("yolox-nano", 1)
    other = ObjectDetector("test_resnet", 1, pretrained=False, fpn_channels=32, detection_arch="yolox")
    assert averages(yolox) == [0.9998]
    assert averages(yolox, ema_decay=None) == []
    assert averages(yolox, ema_decay=0.9) == [0.9]
    assert averages(yolox, callbacks=[ExponentialMovingAverage(0.5, 10)]) == [0.5]
    assert averages(other) == []
    assert averages(other, ema_decay=0.9) == [0.9]


def test_how_often_images_are_composed(nano: Recorded, small: Recorded) -> None:
    """Mosaic half of the time for nano, else always; neither in the last fifteen of 300 epochs."""
    kinds = [(number, placed(image, boxes)) for number, image, boxes in nano.samples]
    composed = [kind == "composed" for number, kind in kinds if number < 104]
    assert np.mean(composed) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(composed)))
    assert not any(kind == "composed" for number, kind in kinds if number >= 105)
    flipped = [kind == "mirrored" for _, kind in kinds if kind != "composed"]
    assert np.mean(flipped) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(flipped)))
    kinds = [(number, placed(image, boxes)) for number, image, boxes in small.samples]
    assert {kind for number, kind in kinds if number < 104} == {"composed"}
    assert {kind for number, kind in kinds if number >= 105} == {"plain", "mirrored"}


def test_scale_of_the_mosaic(nano: Recorded, small: Recorded) -> None:
    """Of squares that are whole; turned by 10 degrees and sheared by 2, a square is up to 1.2 times as wide."""
    for recorded, low, high in ((nano, 0.5, 1.5), (small, 0.1, 2.0)):
        found = []
        for _, image, boxes in recorded.samples:
            side = image.shape[0]
            whole = boxes[((boxes > 1) & (boxes < side - 1)).all(axis=1)]
            if placed(image, boxes) == "composed":
                found += ((whole[:, 2:] - whole[:, :2]) * WIDTH / side / BOX[2]).ravel().tolist()
        assert len(found) > 100
        assert low * 0.9 < min(found) < low + 0.15  # mosaics are put together of whole pixels
        assert high * 0.8 < max(found) < high * 1.23


def test_mixup(nano: Recorded, small: Recorded) -> None:
    """Half white and half grey is neither, whatever the jitter; nano has none, and nothing in between."""

    def mixed_share(image: np.ndarray) -> float:
        value = image.max(axis=2)
        return float(((value > 114 + 32) & (value < 255 - 32)).mean())

    # a mosaic whose objects are all outside is not mixed; and white may lie on white only
    shares = [mixed_share(image) for number, image, boxes in small.samples if number < 104 and len(boxes)]
    assert np.mean([share > 0.02 for share in shares]) > 0.95
    assert max(mixed_share(image) for number, image, _ in small.samples if number >= 105) < 0.02
    # a mosaic has at most four objects here
    assert max(len(boxes) for _, _, boxes in nano.samples) == 4
    assert max(len(boxes) for _, _, boxes in small.samples) == 5


def test_jitter_and_padding(nano: Recorded) -> None:
    """Hue in steps of 2 degrees, saturation and value of 255: at most 5, 30 and 30 either way; padding stays 114."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in COLOUR))
    changes = []
    for _, image, boxes in nano.samples:
        if placed(image, boxes) != "composed":
            assert (image[image.shape[0] // 2 + 1 :] == 114).all()
            found = colorsys.rgb_to_hsv(*(image[10, 10] / 255))
            changes.append([(found[0] - hue) * 180, (found[1] - saturation) * 255, (found[2] - value) * 255])
    largest = np.abs(changes).max(axis=0)
    assert (largest < np.array([5, 30, 30]) + 2).all()
    assert (largest > np.array([3, 20, 20])).all()


def test_sizes_of_batches(nano: Recorded, small: Recorded) -> None:
    for recorded, low, high, first in ((nano, 320, 640, 416), (small, 480 / 5, 800 / 5, 128)):
        sizes = [tuple(images.shape[1:3]) for images in recorded.images]
        assert len(sizes) == 110
        blocks = [set(sizes[start : start + 10]) for start in range(0, 110, 10)]
        assert all(len(block) == 1 for block in blocks)
        sides = [block.pop() for block in blocks]
        assert sides[0] == (first, first)
        assert all(height == width and height % 32 == 0 and low <= height <= high for height, width in sides)
        assert len(set(sides)) >= (5 if recorded is nano else 3)


def test_other_detectors_have_the_plain_augmentation(tmp_path: Path) -> None:
    model = ObjectDetector("test_resnet", 1, pretrained=False, fpn_channels=32, detection_arch="yolox")
    data = DetectionDataModule(write_data(tmp_path, COLOUR))
    data.trainer = SimpleNamespace(lightning_module=model)  # type: ignore[assignment]
    assert data.recipe is None
    data.trainer = SimpleNamespace(lightning_module=YOLOXDetector("yolox-tiny", 1))  # type: ignore[assignment]
    assert data.recipe is not None
    assert (data.recipe.mosaic, data.recipe.mixup, data.recipe.scale) == (1.0, 0.0, (0.5, 1.5))
