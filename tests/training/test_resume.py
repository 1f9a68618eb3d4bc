"""A resumed training is the uninterrupted one: every loss, the learning rates, and the weights at the end."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier
from autotimm.runtime.errors import ConfigError
from autotimm.training import AutoTrainer
from autotimm.training.ema import ExponentialMovingAverage

EPOCHS, BATCHES = 4, 6
RANDOM = {"head_dropout": 0.3, "mixup_alpha": 0.4, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
"""What draws random numbers in the model; the data is augmented too."""


class Recorder(Callback):
    """Losses and learning rates by step; sends SIGINT, as a terminal does, during one step."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.rates: dict[int, list[float]] = {}
        self.interrupt_at = interrupt_at
        self.batches = 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        self.batches += 1
        if self.batches == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *rest: Any) -> None:
        number = trainer.current_epoch * BATCHES + rest[1]
        self.losses[number] = float(outputs["loss"])
        self.rates[number] = [group["lr"] for group in trainer.optimizers[0].param_groups]


def training(
    data: Path, runs: Path, recorder: Recorder, model: dict[str, Any], trainer: dict[str, Any], resume: Any = None
) -> tuple[AutoTrainer, ImageClassifier]:
    network = ImageClassifier("test_resnet", 3, pretrained=False, lr=3e-3, seed=1, **RANDOM, **model)
    ours = AutoTrainer(
        max_epochs=EPOCHS,
        default_root_dir=runs,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[recorder],
        **{"seed": 0, **trainer},
    )
    images = ImageDataModule(data, image_size=32, batch_size=3, num_workers=0, augmentation="default")
    stops = recorder.interrupt_at is not None
    with pytest.raises(KeyboardInterrupt, match="go on with --resume") if stops else nullcontext():
        ours.fit(network, datamodule=images, ckpt_path=resume)
    return ours, network


@pytest.mark.parametrize(
    ("model", "trainer", "interrupted_at"),
    [
        ({}, {}, 2 * BATCHES),
        ({}, {}, 2 * BATCHES + 3),
        ({}, {}, 2),
        ({"scheduler": "plateau", "scheduler_kwargs": {"patience": 0}}, {"ema_decay": 0.9}, 2 * BATCHES),
        ({"scheduler": {"class": "torch.optim.lr_scheduler.StepLR", "params": {"step_size": 1}}}, {}, 2 * BATCHES),
        ({"freeze_backbone": True, "unfreeze_epoch": 2}, {"ema_decay": 0.99, "ema_warmup": 5}, BATCHES + 2),
        ({"freeze_backbone": True, "unfreeze_epoch": 2}, {}, 2 * BATCHES + 3),
        ({"scheduler": "onecycle"}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, BATCHES + 4),
        ({"class_weights": "balanced"}, {"accumulate_grad_batches": 2}, BATCHES + 3),
        ({"scheduler": "plateau", "scheduler_kwargs": {"patience": 0}}, {"val_check_interval": 0.5}, BATCHES + 3),
        ({"optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}}, {"early_stopping": 3}, 3 * BATCHES),
    ],
    ids=[
        "epoch",
        "middle",
        "first",
        "plateau-ema",
        "steplr",
        "frozen-ema",
        "unfrozen",
        "accumulated",
        "amid-accumulation",
        "before-validation",
        "sgd",
    ],
)
def test_resumed_is_uninterrupted(
    color_images: Path, tmp_path: Path, model: dict[str, Any], trainer: dict[str, Any], interrupted_at: int
) -> None:
    whole = Recorder()
    uninterrupted, expected = training(color_images, tmp_path / "whole", whole, model, trainer)
    assert len(whole.losses) == EPOCHS * BATCHES
    first = Recorder(interrupt_at=interrupted_at)
    stopped, _ = training(color_images, tmp_path / "parts", first, model, trainer)
    # where a step or a validation was due, they came first
    stop = len(first.losses)
    assert interrupted_at <= stop <= interrupted_at + 1
    # what the process has drawn since must not matter, nor the seed of the second part
    torch.manual_seed(12345)
    second = Recorder()
    other_seed = {**trainer, "seed": 99}
    ended, resumed = training(color_images, tmp_path / "parts", second, model, other_seed, stopped.last_checkpoint)
    assert ended.best_score == uninterrupted.best_score
    assert ended.summary.best_epoch == uninterrupted.summary.best_epoch
    assert {**first.losses, **second.losses} == whole.losses
    assert set(second.losses) == set(range(stop, EPOCHS * BATCHES))
    assert {**first.rates, **second.rates} == whole.rates
    state = resumed.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def test_the_best_checkpoint_is_as_good_to_go_on_from(color_images: Path, tmp_path: Path) -> None:
    """It is written in the validation, before the epoch is over."""
    whole = Recorder()
    ours, expected = training(color_images, tmp_path / "whole", whole, {}, {"checkpoint_monitor": None})
    assert torch.load(ours.best_checkpoint, weights_only=True)["epoch"] == EPOCHS - 1
    early = Recorder(interrupt_at=2 * BATCHES)
    stopped, _ = training(color_images, tmp_path / "parts", early, {}, {"checkpoint_monitor": None})
    second = Recorder()
    _, resumed = training(
        color_images, tmp_path / "parts", second, {}, {"checkpoint_monitor": None}, stopped.best_checkpoint
    )
    assert {**early.losses, **second.losses} == whole.losses
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_the_second_interrupt_stops_at_once(color_images: Path, tmp_path: Path) -> None:
    class Impatient(Recorder):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
            super().on_train_batch_start(trainer, pl_module, *rest)
            if self.batches == self.interrupt_at:
                os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    recorder = Impatient(interrupt_at=BATCHES + 3)
    ours, _ = training(color_images, tmp_path, recorder, {}, {})
    assert len(recorder.losses) == BATCHES + 2
    assert torch.load(ours.last_checkpoint, weights_only=True)["global_step"] == BATCHES
    assert signal.getsignal(signal.SIGINT) is handler


def test_interrupted_before_the_first_step(color_images: Path, tmp_path: Path) -> None:
    class Early(Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            raise KeyboardInterrupt

    ours = AutoTrainer(default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, callbacks=[Early()])
    images = ImageDataModule(color_images, image_size=32, batch_size=3, num_workers=0)
    with pytest.raises(KeyboardInterrupt, match="nothing to go on from"):
        ours.fit(ImageClassifier("test_resnet", 3, pretrained=False), datamodule=images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"lr": 1e-2}, "lr was 0.003, and is 0.01"),
        ({"scheduler": "none"}, "scheduler was 'cosine', and is 'none'"),
        ({"optimizer": "sgd"}, "optimizer was 'adamw', and is 'sgd'"),
        ({"freeze_backbone": True}, "freeze_backbone was False, and is True"),
        ({"backbone": "test_convnext"}, "backbone was .*test_resnet.*, and is .*test_convnext"),
    ],
)
def test_another_recipe_is_refused_by_name(
    color_images: Path, tmp_path: Path, model: dict[str, Any], says: str
) -> None:
    stopped, _ = training(color_images, tmp_path, Recorder(interrupt_at=2), {}, {})
    arguments = {"backbone": "test_resnet", "num_classes": 3, "pretrained": False, "lr": 3e-3, **RANDOM, **model}
    ours = AutoTrainer(max_epochs=EPOCHS, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    images = ImageDataModule(color_images, image_size=32, batch_size=3, num_workers=0)
    with pytest.raises(ConfigError, match=says):
        ours.fit(ImageClassifier(**arguments), datamodule=images, ckpt_path=stopped.last_checkpoint)


@pytest.mark.parametrize("stop", [2, BATCHES])
def test_another_batch_size_is_refused(color_images: Path, tmp_path: Path, stop: int) -> None:
    stopped, model = training(color_images, tmp_path, Recorder(interrupt_at=stop), {}, {})
    images = ImageDataModule(color_images, image_size=32, batch_size=2, num_workers=0)
    ours = AutoTrainer(max_epochs=EPOCHS, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ConfigError, match="batch size over all processes 3 then, 2 now"):
        ours.fit(model, datamodule=images, ckpt_path=stopped.last_checkpoint)


def test_interrupted_in_the_validation_with_averages(color_images: Path, tmp_path: Path) -> None:
    """The second Ctrl-C, at once: the model holds the average then, and the checkpoint must not mix the two up."""

    class InValidation(Recorder):
        def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
            if not trainer.sanity_checking:
                (ema,) = [one for one in trainer.callbacks if isinstance(one, ExponentialMovingAverage)]
                swapped = ema._average_model.module.state_dict()  # these are the trained weights now
                self.trained = {name: value.clone() for name, value in swapped.items()}
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    recorder = InValidation(interrupt_at=10_000)
    ours, _ = training(color_images, tmp_path, recorder, {}, {"ema_decay": 0.9})
    content = torch.load(ours.last_checkpoint, weights_only=True)
    for name, value in recorder.trained.items():
        assert torch.equal(content["current_model_state"][name], value)


def test_averages_must_be_as_they_were(color_images: Path, tmp_path: Path) -> None:
    plain, _ = training(color_images, tmp_path / "plain", Recorder(interrupt_at=2), {}, {})
    averaged, _ = training(color_images, tmp_path / "ema", Recorder(interrupt_at=2), {}, {"ema_decay": 0.9})
    with pytest.raises(ConfigError, match="ema_decay=None"):
        training(color_images, tmp_path / "x", Recorder(), {}, {"ema_decay": 0.9}, plain.last_checkpoint)
    with pytest.raises(ConfigError, match="give the ema_decay"):
        training(color_images, tmp_path / "y", Recorder(), {}, {}, averaged.last_checkpoint)
