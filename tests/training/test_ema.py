import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier, load_checkpoint
from autotimm.runtime.errors import ConfigError
from autotimm.training import AutoTrainer
from autotimm.training.ema import ExponentialMovingAverage


def test_the_decay_is_the_official_one(shared: Path) -> None:
    official = json.loads((shared / "yolox/nano_train/schedule_ema_optim.json").read_text())["ema_decay_0_9998"]
    average = ExponentialMovingAverage(0.9998, 2000)
    for updates, decay in official.items():
        assert average.decay_after(int(updates)) == pytest.approx(decay, rel=1e-12)


class Watched(ExponentialMovingAverage):
    """Averages once more by the definition, in double precision, and notes what validation sees."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.by_hand = {name: value.double().clone() for name, value in pl_module.state_dict().items()}
        self.updates = 0
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *rest)
        if trainer.global_step == self.updates:  # no optimizer step: gradients are being accumulated
            return
        self.updates += 1
        decay = self.decay_after(self.updates)
        for name, value in pl_module.state_dict().items():
            averaged = decay * self.by_hand[name] + (1 - decay) * value.double()
            self.by_hand[name] = averaged if value.is_floating_point() else value.double()

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.validated.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def test_what_is_validated_kept_and_left_is_the_average(color_images: Path, tmp_path: Path) -> None:
    """Batch-norm statistics as well; and the number of updates is that of optimizer steps."""
    watched = Watched(0.9, 4)
    trainer = AutoTrainer(
        max_epochs=2,
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_progress_bar=False,
        seed=0,
        num_sanity_val_steps=0,
        accumulate_grad_batches=2,
        callbacks=[watched],
    )
    model = ImageClassifier("test_resnet", 3, pretrained=False, lr=1e-2)
    trainer.fit(model, datamodule=ImageDataModule(color_images, image_size=32, batch_size=3, num_workers=0))
    assert watched.updates == trainer.global_step == 6
    kept = load_checkpoint(trainer.last_checkpoint).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.double(), watched.by_hand[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(value, kept[name])
        assert torch.equal(value, watched.validated[-1][name])
    trained = torch.load(trainer.last_checkpoint, weights_only=True)["current_model_state"]
    assert not torch.equal(trained["network.conv1.0.weight"], kept["network.conv1.0.weight"])


def test_a_callback_of_ones_own_averages_a_resumed_training(color_images: Path, tmp_path: Path) -> None:
    def train(epochs: int, ckpt_path: Path | None, averages: bool) -> AutoTrainer:
        trainer = AutoTrainer(
            max_epochs=epochs,
            default_root_dir=tmp_path / str(epochs),
            accelerator="cpu",
            enable_progress_bar=False,
            callbacks=[ExponentialMovingAverage(0.9, 4)] if averages else [],
        )
        data = ImageDataModule(color_images, image_size=32, batch_size=9, num_workers=0)
        model = ImageClassifier("test_resnet", 3, pretrained=False, seed=0)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return trainer

    first = train(1, None, averages=True).last_checkpoint
    with pytest.raises(ConfigError, match="of a training with averaged weights"):
        train(2, first, averages=False)
    assert torch.load(train(2, first, averages=True).last_checkpoint, weights_only=True)["epoch"] == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"ema_decay is 1\.5"):
        AutoTrainer(ema_decay=1.5)
    with pytest.raises(ConfigError, match="ema_warmup is 0"):
        AutoTrainer(ema_decay=0.9, ema_warmup=0)
