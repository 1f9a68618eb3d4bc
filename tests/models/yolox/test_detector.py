from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from autotimm.data.batch import DetectionBatch
from autotimm.models import YOLOXDetector
from autotimm.training import AutoTrainer


def batches(count: int) -> Any:
    """Batches of two images with one object each."""
    boxes, labels = [torch.tensor([[8.0, 8.0, 40.0, 40.0]])] * 2, [torch.tensor([0])] * 2
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = DetectionBatch(images, boxes, labels, [], [])
    return DataLoader([batch] * count, batch_size=None)


def l1_losses(model: YOLOXDetector, root: Path, batches_per_epoch: int = 2, **limits: Any) -> list[float]:
    """The L1 loss of each step of a training."""
    seen: list[float] = []
    log_dict = model.log_dict

    def note(values: dict[str, Any], **options: Any) -> None:
        seen.append(float(values["train/l1_loss"]))
        log_dict(values, **options)

    model.log_dict = note  # type: ignore[method-assign]
    trainer = AutoTrainer(
        default_root_dir=root,
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        **limits,
    )
    trainer.fit(model, batches(batches_per_epoch), batches(1))
    return seen


def small(**arguments: Any) -> YOLOXDetector:
    torch.manual_seed(0)
    return YOLOXDetector("yolox-nano", 2, optimizer="adamw", lr=1e-5, **arguments)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("arguments", "limits", "without"),
    [
        ({"total_epochs": 4, "warmup_epochs": 1, "no_aug_epochs": 2}, {"max_epochs": 4}, 4),
        # half as long as it is meant for
        ({"total_epochs": 8, "warmup_epochs": 2, "no_aug_epochs": 4}, {"max_epochs": 4}, 4),
        # longer: the last epoch of three, not of two
        ({"total_epochs": 2, "warmup_epochs": 0, "no_aug_epochs": 1}, {"max_epochs": 3}, 4),
        ({"total_epochs": 8, "no_aug_epochs": 4, "scheduler": "cosine"}, {"max_epochs": 4}, 4),
        ({"scheduler_kwargs": {"total_epochs": 4, "warmup_epochs": 1, "no_aug_epochs": 1}}, {"max_epochs": 4}, 6),
        ({"total_epochs": 4, "no_aug_epochs": 3, "scheduler": "none"}, {"max_epochs": -1, "max_steps": 4}, 1),
    ],
)
def test_l1_is_on_in_the_last_part_of_the_training(
    arguments: dict[str, Any], limits: dict[str, Any], without: int, tmp_path: Path
) -> None:
    losses = l1_losses(small(**arguments), tmp_path, **limits)
    assert [loss > 0 for loss in losses] == [False] * without + [True] * (len(losses) - without)
    assert len(losses) > without


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_by_default_a_short_training_has_the_whole_recipe(tmp_path: Path) -> None:
    """300 epochs are the recipe's default; of two epochs of 20 batches, the last twentieth has the L1 loss."""
    model = small()
    losses = l1_losses(model, tmp_path, batches_per_epoch=20, max_epochs=2)
    assert [loss > 0 for loss in losses] == [False] * 38 + [True] * 2
    assert model.lr_schedulers().get_last_lr() == pytest.approx([0.05 * model.lr] * 3)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("sgd", 0.01 * 6 / 64),
        ("SGD", 0.01 * 6 / 64),
        ({"class": "torch.optim.SGD", "params": {"momentum": 0.9}}, 0.01 * 6 / 64),
        ("adamw", 0.01),
        ({"class": "torch.optim.AdamW"}, 0.01),
    ],
)
def test_the_learning_rate_of_sgd_goes_with_the_images_of_a_step(optimizer: Any, expected: float) -> None:
    model = YOLOXDetector("yolox-nano", 2, optimizer=optimizer)
    loader = SimpleNamespace(batch_size=3)
    model._trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(setup_data=lambda: None),
        train_dataloader=loader,
        world_size=1,
        accumulate_grad_batches=2,
    )
    assert model.learning_rate() == pytest.approx(expected)
