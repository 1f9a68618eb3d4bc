from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from autotimm.data import ImageDataModule
from autotimm.models import ImageClassifier
from autotimm.training import AutoTrainer


def test_a_line_for_each_epoch_where_there_is_no_terminal(
    color_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ImageClassifier("test_resnet", 3, pretrained=False, seed=0)
    trainer = AutoTrainer(
        max_epochs=2, default_root_dir=tmp_path, accelerator="cpu", seed=0, accumulate_grad_batches=2, callbacks=[]
    )
    losses: list[float] = []

    class Losses(pl.Callback):
        def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
            losses.append(2 * float(loss.detach()))  # divided by the batches that make a step

    trainer.callbacks.append(Losses())
    trainer.fit(model, datamodule=ImageDataModule(color_images, image_size=32, batch_size=6, num_workers=0))
    out, err = capsys.readouterr()
    assert out == ""
    data, first, second = err.splitlines()
    assert data == "18 images to train, 12 images to validate; 3 classes: blue, green, red; 32x32"
    assert first.startswith(f"epoch 1/2  mean train/loss {sum(losses[:3]) / 3:.4f}  val/loss ")
    assert second.startswith(f"epoch 2/2  mean train/loss {sum(losses[3:]) / 3:.4f}  val/loss ")
    assert "val/accuracy" in first
    assert "best so far" in first
    assert trainer.progress_bar_callback is None


def test_nothing_is_printed_where_nothing_is_wanted(
    color_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = AutoTrainer(max_epochs=1, default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False)
    data = ImageDataModule(color_images, image_size=32, batch_size=6, num_workers=0)
    trainer.fit(ImageClassifier("test_resnet", 3, pretrained=False), datamodule=data)
    assert capsys.readouterr() == ("", "")
