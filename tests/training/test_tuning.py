import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier
from autotimm.runtime.errors import ConfigError
from autotimm.training import AutoTrainer, TunerConfig
from autotimm.training.tuning import tune

HARDWARE = {"accelerator": "cpu", "devices": "auto", "precision": None}


@pytest.fixture(autouse=True)
def answered() -> Iterator[None]:
    """Ctrl-C as at a terminal: a process that a script has started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def parts(root: Path, kind: type[ImageClassifier] = ImageClassifier) -> tuple[ImageClassifier, ImageDataModule]:
    torch.manual_seed(0)
    model = kind("test_resnet", 3, pretrained=False, lr=123.0)
    return model, ImageDataModule(root, image_size=32, batch_size=2, num_workers=0)


def weights(model: ImageClassifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_learning_rate_is_found_and_nothing_else_changes(
    color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, data = parts(color_images)
    before = weights(model)
    found = tune(model, data, TunerConfig(auto_batch_size=False, lr_steps=30), **HARDWARE)
    assert found.lr == model.lr
    assert 1e-6 < model.lr < 1
    assert (found.batch_size, data.batch_size) == (None, 2)
    assert same(before, weights(model))
    assert list(tmp_path.iterdir()) == []


class Diverging(ImageClassifier):
    """Whose loss is no number any more from the twenty-sixth step on, as where the learning rate is too large."""

    def losses(self, batch: Any, batch_index: int) -> dict[str, torch.Tensor]:
        loss = super().losses(batch, batch_index)["loss"]
        return {"loss": loss * float("nan") if self.global_step > 25 else loss}


def test_a_search_goes_through_where_the_loss_diverges(color_images: Path) -> None:
    model, data = parts(color_images, Diverging)
    before = weights(model)
    found = tune(model, data, TunerConfig(auto_batch_size=False, lr_steps=40, max_lr=10.0), **HARDWARE)
    assert found.lr is not None
    assert found.lr < 1
    assert same(before, weights(model))
    assert model.checks_loss


class Heavy(ImageClassifier):
    """Runs out of memory, as a GPU does, beyond five images."""

    def losses(self, batch: Any, batch_index: int) -> dict[str, torch.Tensor]:
        if len(batch.images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return super().losses(batch, batch_index)


def test_the_largest_batch_that_fits(color_images: Path) -> None:
    model, data = parts(color_images, Heavy)
    before = weights(model)
    found = tune(model, data, TunerConfig(auto_lr=False, max_batch_size=16), **HARDWARE)
    assert (found.batch_size, data.batch_size) == (4, 4)
    assert model.lr == 123.0
    assert same(before, weights(model))


def test_a_batch_is_never_larger_than_allowed(color_images: Path) -> None:
    model, data = parts(color_images)
    assert tune(model, data, TunerConfig(auto_lr=False, max_batch_size=3), **HARDWARE).batch_size <= 3


def test_the_first_phase_is_not_used_up(color_images: Path) -> None:
    torch.manual_seed(0)
    model = ImageClassifier("test_resnet", 3, pretrained=False, freeze_backbone=True, unfreeze_epoch=1)
    data = ImageDataModule(color_images, image_size=32, batch_size=6, num_workers=0)
    tune(model, data, TunerConfig(auto_batch_size=False, lr_steps=20), **HARDWARE)
    assert (model.freezing.is_frozen, model.freezing.until) == (True, 1)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == [
        "network.fc.weight",
        "network.fc.bias",
    ]


def test_an_interrupted_search_leaves_everything_as_it_was(
    color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(ImageClassifier):
        def losses(self, batch: Any, batch_index: int) -> dict[str, torch.Tensor]:
            if self.global_step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().losses(batch, batch_index)

    monkeypatch.chdir(tmp_path)
    model, data = parts(color_images, Interrupted)
    before, handler = weights(model), signal.getsignal(signal.SIGINT)
    trainer = AutoTrainer(
        max_epochs=1,
        accelerator="cpu",
        enable_progress_bar=False,
        tuner_config={"auto_batch_size": False, "lr_steps": 20},
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model, datamodule=data)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.lr == 123.0
    assert same(before, weights(model))
    assert list(tmp_path.iterdir()) == []


def test_a_training_begins_with_the_search(
    color_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = parts(color_images)
    trainer = AutoTrainer(
        max_epochs=1,
        default_root_dir=tmp_path,
        accelerator="cpu",
        tuner_config=TunerConfig(lr_steps=20, max_batch_size=4),
    )
    trainer.fit(model, datamodule=data)
    assert model.lr < 1
    assert f"tuned: lr {model.lr:g}, batch_size {data.batch_size}" in capsys.readouterr().err
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == model.lr
    again, other = parts(color_images)
    longer = AutoTrainer(
        max_epochs=2,
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_progress_bar=False,
        tuner_config=TunerConfig(lr_steps=20, max_batch_size=4),
    )
    longer.fit(again, datamodule=other, ckpt_path=trainer.last_checkpoint)
    assert (again.lr, other.batch_size) == (model.lr, data.batch_size)


def test_mistakes_are_named(color_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean auto_lr"):
        AutoTrainer(tuner_config={"autolr": True})
    with pytest.raises(ConfigError, match="fewer than 20"):
        TunerConfig(lr_steps=3)
    with pytest.raises(ConfigError, match="max_batch_size"):
        tune(*parts(color_images), TunerConfig(auto_lr=False), **HARDWARE)
    two = AutoTrainer(tuner_config=True, devices=2, accelerator="cpu", default_root_dir=tmp_path)
    model, data = parts(color_images)
    with pytest.raises(ConfigError, match="2 processes"):
        two.fit(model, datamodule=data)
    assert AutoTrainer(tuner_config=False, default_root_dir=tmp_path)._tuner is None
