"""The learning rate that each optimizer step of a real training has, against the closed form."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from autotimm.optim.schedulers import Horizon, build_scheduler, list_schedulers, schedule_factor
from autotimm.training import AutoTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

EPOCHS, BATCHES, ACCUMULATED, LR = 3, 7, 2, 0.2
STEPS = math.ceil(BATCHES / ACCUMULATED)  # of an epoch: the last one has one batch only
OPTIONS: dict[str, dict[str, Any]] = {
    "yolox": {"warmup_epochs": 1, "no_aug_epochs": 1},
    "step": {"step_size": 1},
    "multistep": {"milestones": [1, 2]},
}


class Line(pl.LightningModule):
    monitor = "val/score"

    def __init__(self, scheduler: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scheduler, self.options = scheduler, options
        self.rates: list[float] = []

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(float(BATCHES))), batch_size=1)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return (self.weight - batch[0]).square().mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=LR)
        config = build_scheduler(optimizer, self.scheduler, self.trainer, self.options)
        return optimizer if config is None else {"optimizer": optimizer, "lr_scheduler": config}


def rates_of(folder: Path, scheduler: Any, options: dict[str, Any] | None = None, **trainer: Any) -> list[float]:
    line = Line(scheduler, options or {})
    standard = {"max_epochs": EPOCHS, "accumulate_grad_batches": ACCUMULATED}
    AutoTrainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
        **{**standard, **trainer},
    ).fit(line)
    return line.rates


@pytest.mark.parametrize("name", [name for name in list_schedulers() if name not in ("none", "plateau")])
def test_every_step_has_the_rate_of_the_closed_form(name: str, tmp_path: Path) -> None:
    options = OPTIONS.get(name, {})
    factor = schedule_factor(name, Horizon(EPOCHS * STEPS, STEPS), options)
    expected = [LR * factor(step) for step in range(EPOCHS * STEPS)]
    assert rates_of(tmp_path, name, options) == pytest.approx(expected)


def test_rates_by_hand(tmp_path: Path) -> None:
    """Not by our own formulas."""
    steps = EPOCHS * STEPS
    cosine = [LR * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    assert rates_of(tmp_path, "cosine") == pytest.approx(cosine)
    assert rates_of(tmp_path, "step", {"step_size": 1}) == pytest.approx([LR] * 4 + [LR / 10] * 4 + [LR / 100] * 4)
    assert rates_of(tmp_path, "none") == [LR] * steps
    by_class = {"class": "torch.optim.lr_scheduler.ExponentialLR", "params": {"gamma": 0.5}}
    assert rates_of(tmp_path, by_class) == pytest.approx([LR] * 4 + [LR / 2] * 4 + [LR / 4] * 4)
    by_step = {**by_class, "interval": "step"}
    assert rates_of(tmp_path, by_step) == pytest.approx([LR / 2**step for step in range(steps)])


def test_a_limit_on_steps_or_batches_is_the_length(tmp_path: Path) -> None:
    limited = rates_of(tmp_path, "cosine", max_epochs=None, max_steps=5, accumulate_grad_batches=1)
    assert limited == pytest.approx([LR * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)])
    part = rates_of(tmp_path, "cosine", limit_train_batches=4)
    assert part == pytest.approx([LR * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
