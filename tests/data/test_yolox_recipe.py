"""The YOLOX recipe in a data module and in a training: what is where, when, and always the same."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from autotimm.data import DetectionDataModule
from autotimm.data import boxed_samples as samples
from autotimm.data.batch import DetectionBatch
from autotimm.data.boxed import BoxedPixels
from autotimm.data.samplers import SeededSampler
from autotimm.data.yolox_recipe import BatchSetting, Partners, YOLOXAugmentation, YOLOXPlan, augment_yolox
from autotimm.models import YOLOXDetector
from autotimm.runtime.errors import ConfigError, DataWarning
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image
from autotimm.training import load_config

LETTERBOX = Preprocess((96, 128), fit="letterbox", align="top_left", antialias=False)
SMALL = YOLOXAugmentation(scale=(0.5, 1.5), multi_scale=(64, 160), base_size=96, resize_every=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Black images with one white rectangle each; the first has none."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "white"}]}
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    for index in range(12):
        height, width = int(random.integers(60, 120)), int(random.integers(60, 120))
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        content["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
        if index:
            x, y = int(random.integers(5, width - 45)), int(random.integers(5, height - 45))
            pixels[y : y + 36, x : x + 40] = 255
            content["annotations"].append({"image_id": index, "category_id": 3, "bbox": [x, y, 40, 36]})
        for split in ("train", "val"):
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{index}.png")
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return tmp_path


def module(root: Path, **options: Any) -> DetectionDataModule:
    data = DetectionDataModule(root, **{"batch_size": 4, "num_workers": 0, "augmentation": SMALL, "seed": 5, **options})
    data.use_preprocess(LETTERBOX)
    return data


def same(one: DetectionBatch, other: DetectionBatch) -> bool:
    return torch.equal(one.images, other.images) and all(
        torch.equal(*pair) for pair in zip([*one.boxes, *one.labels], [*other.boxes, *other.labels], strict=True)
    )


def test_settings_by_size() -> None:
    """The official experiment files: default/yolox_{nano,tiny,s}.py and yolox_base.py."""
    nano, tiny, large = (YOLOXAugmentation.of_size(f"yolox-{name}") for name in ("nano", "tiny", "x"))
    assert (nano.mosaic, nano.mixup, nano.scale, nano.multi_scale) == (0.5, 0.0, (0.5, 1.5), (320, 640))
    assert (tiny.mosaic, tiny.mixup, tiny.scale, tiny.multi_scale) == (1.0, 0.0, (0.5, 1.5), (320, 640))
    assert (large.mosaic, large.mixup, large.scale, large.multi_scale) == (1.0, 1.0, (0.1, 2.0), (480, 800))
    assert (large.rotation, large.translation, large.shear, large.hsv, large.flip) == (10, 0.1, 2, (5, 30, 30), 0.5)
    model = YOLOXDetector("nano", 3, total_epochs=100, no_aug_epochs=7)
    assert model.recipe_augmentation() == replace(nano, total_epochs=100, no_aug_epochs=7)
    for wrong in (
        *({"mosaic": 1.5}, {"scale": (2, 1)}, {"multi_scale": (0, 4)}, {"resize_every": 0}),
        *({"hsv": (-5, 30, 30)}, {"rotation": float("nan")}, {"total_epochs": 0.0}, {"no_aug_epochs": -1.0}),
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            YOLOXAugmentation(**wrong)  # type: ignore[arg-type]


def test_sizes_and_composition_follow_the_place_in_the_training() -> None:
    plan = YOLOXPlan(YOLOXAugmentation(), (640, 640), 0, lambda: 25, lambda: 8.5)
    settings = [plan(epoch, batch) for epoch in range(10) for batch in range(25)]
    sizes = [setting.size for setting in settings]
    assert sizes[:10] == [(640, 640)] * 10
    for start in range(0, 250, 10):
        assert len(set(sizes[start : start + 10])) == 1
    heights = {height for height, _ in sizes}
    assert all(height % 32 == 0 and 480 <= height <= 800 for height in heights)
    assert len(heights) > 5
    assert [setting.composed for setting in settings] == [place < 8.5 * 25 for place in range(250)]
    assert settings == [plan(place // 25, place % 25) for place in range(250)]
    assert sizes != [replace(plan, seed=1)(place // 25, place % 25).size for place in range(250)]
    many = {replace(plan, seed=seed)(0, 10).size[0] for seed in range(400)}
    assert many == set(range(480, 801, 32))
    nano = replace(plan, recipe=YOLOXAugmentation.of_size("yolox-nano"), size=(416, 416))
    assert {replace(nano, seed=seed)(0, 10).size[0] for seed in range(400)} == set(range(320, 641, 32))
    wide = replace(nano, size=(208, 416))  # half as large, twice as wide
    assert {replace(wide, seed=seed)(0, 10).size for seed in range(400)} == {
        (steps * 32, steps * 64) for steps in range(5, 11)
    }
    fixed = replace(plan, recipe=YOLOXAugmentation(multi_scale=None))
    assert {fixed(0, batch).size for batch in range(25)} == {(640, 640)}


def test_keys_carry_the_setting_of_their_batch() -> None:
    def plan(epoch: int, batch: int) -> tuple[int, int]:
        return epoch, batch

    alone = SeededSampler(26, 5, batch_size=6, plan=plan)
    first, second = list(alone), list(alone)
    assert [key[2] for key in first] == [(0, batch) for batch in range(4) for _ in range(6)]
    assert [key[2] for key in second] == [(1, batch) for batch in range(4) for _ in range(6)]
    plain = SeededSampler(26, 5, batch_size=6)
    assert list(plain) == [key[:2] for key in first]
    alone.set_epoch(1)
    alone.skip(3)
    assert list(alone) == second[18:]
    for rank in range(2):
        part = list(SeededSampler(26, 5, batch_size=3, rank=rank, world_size=2, plan=plan))
        assert [key[2] for key in part] == [(0, batch) for batch in range(4) for _ in range(3)]
        assert set(part) < set(first)
    few = SeededSampler(5, 5, batch_size=3, rank=1, world_size=2, plan=plan)
    assert [key[2] for key in few] == [(0, 0)] * 3


@pytest.mark.parametrize("recipe", [SMALL, YOLOXAugmentation.of_size("yolox-nano"), replace(SMALL, mixup=0.0)])
def test_boxes_are_on_the_white_rectangles(root: Path, recipe: YOLOXAugmentation) -> None:
    data = module(root, augmentation=replace(recipe, hsv=(0, 0, 0), multi_scale=None), batch_size=12)
    seen = 0
    for _ in range(4):
        (batch,) = data.train_dataloader()
        for image, boxes, labels in zip(batch.images.numpy(), batch.boxes, batch.labels, strict=True):
            assert boxes.dtype == torch.float32
            assert labels.tolist() == [0] * len(boxes)
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([128, 96, 128, 96])).all()
            for x1, y1, x2, y2 in boxes.round().int().tolist():
                inside = image[y1:y2, x1:x2].mean()
                assert inside > 70  # half of it where mixed, less some corners where turned
                seen += 1
    assert seen > 40


def test_without_composition_it_is_the_letterbox_of_the_model() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (80, 70, 3), dtype=np.uint8)
    given = BoxedPixels(pixels, np.array([[10, 20, 50, 60]], dtype=np.float32), np.array([2]))
    recipe = YOLOXAugmentation(hsv=(0, 0, 0))
    flips = 0
    for seed in range(20):
        made = augment_yolox(lambda index: given, 0, seed, Partners(1, (0,)), recipe, LETTERBOX, composed=False)
        plain, placement = fit_image(pixels, LETTERBOX)
        mirrored, _ = fit_image(np.ascontiguousarray(pixels[:, ::-1]), LETTERBOX)
        flipped = (made.image == mirrored).all()
        flips += int(flipped)
        assert flipped or (made.image == plain).all()
        box = [20, 20, 60, 60] if flipped else [10, 20, 50, 60]
        np.testing.assert_allclose(made.boxes, placement.to_input(np.array([box], dtype=np.float32)), atol=1e-4)
    assert 4 < flips < 16
    jittered = augment_yolox(lambda index: given, 0, 3, Partners(1, (0,)), YOLOXAugmentation(), LETTERBOX, False)
    assert (jittered.image[:, placement.resized_size[1] :] == 114).all()
    assert (pixels == np.random.default_rng(0).integers(0, 256, (80, 70, 3), dtype=np.uint8)).all()


def test_batches_do_not_depend_on_the_workers_or_the_cache(root: Path) -> None:
    runs = []
    for options in ({}, {"num_workers": 2}, {"image_cache": 0}):
        loader = module(root, **options).train_dataloader()
        runs.append([batch for _ in range(2) for batch in loader])
    assert len(runs[0]) == 6
    assert len({batch.images.shape[1:3] for batch in runs[0]}) > 1
    for other in runs[1:]:
        assert all(same(*pair) for pair in zip(runs[0], other, strict=True))
    other_seed = list(module(root, seed=6).train_dataloader())
    assert not same(other_seed[0], runs[0][0])
    assert all(batch.placements == [] and batch.truths == [] for batch in runs[0])


def test_a_resumed_epoch_goes_on_with_its_batches(root: Path) -> None:
    whole = [batch for loader in [module(root).train_dataloader()] for _ in range(2) for batch in loader]
    resumed = module(root).train_dataloader()
    resumed.load_state_dict({**resumed.state_dict(), "epoch": 1, "batches": 2})
    (last,) = resumed
    assert same(last, whole[5])


def test_no_image_is_decoded_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    load = samples.load_image
    monkeypatch.setattr(samples, "load_image", lambda path: decoded.append(path) or load(path))
    list(module(root).train_dataloader())
    assert len(decoded) == len(set(decoded)) <= 12
    assert len(set(decoded)) > 8
    decoded.clear()
    list(module(root, image_cache=0).train_dataloader())
    assert len(decoded) > 40  # four for a mosaic, one more for the mixup


def test_spawned_workers_get_no_images(root: Path) -> None:
    dataset = module(root).train_dataloader().dataset
    first = dataset[3, 7, BatchSetting((96, 128), composed=True)]
    assert len(dataset.cache) > 1
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy.cache) == copy.cache.held == 0
    np.testing.assert_array_equal(copy[3, 7, BatchSetting((96, 128), composed=True)].image, first.image)


def test_bad_images_among_those_put_together(root: Path) -> None:
    (root / "images" / "train" / "4.png").write_bytes(b"")
    with pytest.warns(DataWarning, match=r"4\.png") as caught:
        batches = list(module(root, bad_images="skip").train_dataloader())
    assert len(caught) == 1
    assert [len(batch.images) for batch in batches] == [4, 4, 4]


class Listener(pl.LightningModule):
    """Learns nothing, and keeps what it is given."""

    data_kind = "detection"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.preprocess = LETTERBOX
        self.seen: list[DetectionBatch] = []

    def recipe_augmentation(self) -> YOLOXAugmentation:
        return replace(SMALL, total_epochs=40.0, no_aug_epochs=20.0)

    def training_step(self, batch: DetectionBatch, batch_index: int) -> torch.Tensor:
        self.seen.append(batch)
        return self.weight.sum()

    def validation_step(self, batch: DetectionBatch, batch_index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def listen(root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Listener, list[BatchSetting]]:
    settings: list[BatchSetting] = []
    load = samples.ComposedImages.load

    def noted(self: Any, index: int, seed: int, setting: Any = None) -> Any:
        settings.append(setting)
        return load(self, index, seed, setting)

    monkeypatch.setattr(samples.ComposedImages, "load", noted)
    model = Listener()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )
    data = DetectionDataModule(root, batch_size=4, num_workers=0, augmentation="yolox", seed=5)
    trainer.fit(model, datamodule=data)
    return model, settings


@pytest.mark.parametrize(
    ("options", "plain_from"),
    [
        ({"max_epochs": 3}, 1.5 * 3),  # half of the recipe is its last part
        ({"max_epochs": 4, "limit_train_batches": 2}, 2 * 2),
        ({"max_epochs": -1, "max_steps": 6}, 3),
    ],
)
def test_the_trainer_says_how_long_the_training_is(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], plain_from: float
) -> None:
    model, settings = listen(root, monkeypatch, **options)
    of_batches = settings[::4]
    assert [setting.composed for setting in of_batches] == [place < plain_from for place in range(len(of_batches))]
    assert [batch.images.shape[1:3] for batch in model.seen] == [setting.size for setting in of_batches]
    assert of_batches[0].size == LETTERBOX.size
    assert len({setting.size for setting in of_batches}) > 1


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_lightnings_own_sampler_gives_no_settings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = listen(root, monkeypatch, max_epochs=1, overfit_batches=2)
    assert len(model.seen) == 2
    assert set(settings) == {None}
    assert model.seen[0].images.shape == (4, 96, 128, 3)


def test_wrong_settings(root: Path) -> None:
    with pytest.raises(ConfigError, match="image_cache"):
        DetectionDataModule(root, augmentation="yolox", image_cache=-1)
    with pytest.raises(ConfigError, match="yolox"):
        DetectionDataModule(root, augmentation="yolo")
    with pytest.raises(ConfigError, match="'None'; did you mean none"):
        DetectionDataModule(root, augmentation=None)  # type: ignore[arg-type]
    assert DetectionDataModule(root, augmentation="yolox").recipe == YOLOXAugmentation()
    assert DetectionDataModule(root).recipe is None


def test_settings_of_a_file_change_the_models_recipe(root: Path) -> None:
    config = root / "config.yaml"
    config.write_text(
        "model: {class: YOLOXDetector, model_name: yolox-nano, num_classes: 1}\n"
        f"data: {{class: DetectionDataModule, root: '{root}', augmentation: {{yolox: {{mixup: 1, scale: [.5, 2]}}}}}}\n"
    )
    given = load_config(config, ["data.augmentation.yolox.multi_scale=null"])
    data = DetectionDataModule(**given.data.arguments)
    assert data.recipe == YOLOXAugmentation(mixup=1, scale=(0.5, 2), multi_scale=None)
    model = YOLOXDetector("yolox-nano", 1)
    data.trainer = SimpleNamespace(lightning_module=model)  # type: ignore[assignment]
    assert data.recipe == replace(model.recipe_augmentation(), mixup=1, scale=(0.5, 2), multi_scale=None)
    given = load_config(config, ["data.augmentation={yolox: {}}"])
    assert DetectionDataModule(**given.data.arguments).recipe == YOLOXAugmentation()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"yolox": {"mosaik": 0.5}}, "did you mean mosaic"),
        ({"yolox": {"mosaic": "often"}}, "mosaic of YOLOXAugmentation is 'often', but must be a number"),
        ({"yolox": {"mosaic": True}}, "must be a number"),
        ({"yolox": {"mixup": 2}}, "must be in 0..1"),
        ({"yolox": {"scale": [1]}}, r"scale of YOLOXAugmentation is \[1\], but must be 2 numbers"),
        ({"yolox": {"scale": None}}, "must be 2 numbers"),
        ({"yolox": {"hsv": [1, 2, 3.5]}}, "must be 3 whole numbers"),
        ({"yolox": {"resize_every": 2.5}}, "must be a whole number"),
        ({"yolox": "nano"}, "are written"),
        ({"mosaic": 0.5}, "are written"),
    ],
)
def test_settings_that_cannot_be(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DetectionDataModule(root, augmentation=settings)
