"""A YOLOX with its whole recipe: the L1 loss begins where the composed images end, and a resumed training is exact."""

import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback

from autotimm.data import DetectionDataModule
from autotimm.models import YOLOXDetector
from autotimm.runtime.pictures import generate
from autotimm.training import AutoTrainer, TunerConfig
from autotimm.training.tuning import tune

EPOCHS, BATCHES = 4, 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes")
    random = np.random.default_rng(0)
    (folder / "annotations").mkdir()
    for split, count in (("train", 12), ("val", 2)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        (folder / "images" / split).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(generate(60, 80, index)).save(folder / "images" / split / f"{index}.png")
            content["images"].append({"id": index, "file_name": f"{index}.png", "width": 80, "height": 60})
            x, y = random.integers(0, 40, 2).tolist()
            content["annotations"].append({"image_id": index, "category_id": 1, "bbox": [x, y, 30, 20]})
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


class Recorder(Callback):
    def __init__(self, interrupt_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.sizes: dict[int, int] = {}
        self.with_l1: dict[int, bool] = {}
        self.interrupt_at = interrupt_at

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if trainer.current_epoch * BATCHES + index + 1 == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        number = trainer.current_epoch * BATCHES + index
        self.losses[number] = float(outputs["loss"])
        self.sizes[number] = int(batch.images.shape[1])
        self.with_l1[number] = float(trainer.callback_metrics["train/l1_loss"]) > 0


def training(root: Path, runs: Path, recorder: Recorder, resume: Any = None) -> tuple[AutoTrainer, YOLOXDetector]:
    model = YOLOXDetector("nano", 1, seed=0, total_epochs=8, warmup_epochs=1, no_aug_epochs=3)
    data = DetectionDataModule(root, image_size=64, batch_size=2, num_workers=0, augmentation="yolox", seed=3)
    trainer = AutoTrainer(
        max_epochs=EPOCHS,
        default_root_dir=runs,
        accelerator="cpu",
        enable_progress_bar=False,
        limit_val_batches=0,
        callbacks=[recorder],
        seed=0,
    )
    stops = recorder.interrupt_at is not None
    with pytest.raises(KeyboardInterrupt) if stops else nullcontext():
        trainer.fit(model, datamodule=data, ckpt_path=resume)
    return trainer, model


def test_resumed_within_an_epoch_is_uninterrupted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first, second = Recorder(), Recorder(interrupt_at=15), Recorder()
    _, expected = training(root, tmp_path / "whole", whole)
    stopped, _ = training(root, tmp_path / "parts", first)
    _, resumed = training(root, tmp_path / "parts", second, stopped.last_checkpoint)
    assert {**first.losses, **second.losses} == whole.losses
    assert {**first.sizes, **second.sizes} == whole.sizes
    assert set(whole.losses) == set(range(EPOCHS * BATCHES))
    assert min(second.losses) == 15
    assert whole.sizes[0] == 64
    assert len(set(whole.sizes.values())) > 1
    state = resumed.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)
    # half of eight epochs, so half of three at the end: 2.5 * 6 batches come before
    assert [place for place, used in whole.with_l1.items() if used] == list(range(15, 24))


def test_a_batch_size_is_looked_for_at_the_largest_size(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, ...]] = []

    def losses(self: YOLOXDetector, batch: Any, batch_index: int) -> dict[str, torch.Tensor]:
        tried.append(tuple(batch.images.shape[:3]))
        return {"loss": self.network.head.obj_preds[0].bias.sum()}

    monkeypatch.setattr(YOLOXDetector, "losses", losses)
    model = YOLOXDetector("nano", 1, seed=0)
    data = DetectionDataModule(root, image_size=(64, 128), batch_size=2, num_workers=0)
    found = tune(
        model, data, TunerConfig(auto_lr=False, max_batch_size=4), accelerator="cpu", devices=1, precision=None
    )
    assert found.batch_size == data.batch_size == 4
    assert {shape[1:] for shape in tried} == {(96, 192)}  # as 640 is to 416, in whole steps
    assert not data.largest_batches
    trainer = AutoTrainer(max_epochs=1, default_root_dir=root / "runs", accelerator="cpu", enable_progress_bar=False)
    tried.clear()
    trainer.fit(model, datamodule=data)
    assert tried[0] == (4, 64, 128)
