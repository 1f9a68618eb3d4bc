import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from autotimm.described import mode_of
from autotimm.runtime.errors import AutoTimmError, CheckpointError, ConfigError
from autotimm.training.trainer import AutoTrainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")  # three numbers need none


class Line(pl.LightningModule):
    """One weight, whose validation score is given for each epoch."""

    monitor = "val/score"

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores = scores
        self.fails_at: tuple[int, BaseException] | None = None

    def loader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)

    train_dataloader = val_dataloader = loader

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        if self.fails_at is not None and self.global_step == self.fails_at[0]:
            raise self.fails_at[1]
        loss = (self.weight - batch[0]).square().mean()
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val/score", self.scores[self.current_epoch % len(self.scores)], batch_size=1)
        self.log("val/loss", self.scores[self.current_epoch % len(self.scores)], batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(root: Path, **kwargs: Any) -> AutoTrainer:
    return AutoTrainer(default_root_dir=root, accelerator="cpu", enable_progress_bar=False, **kwargs)


def epoch_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"])


def test_best_and_last_are_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ours = trainer(tmp_path, max_epochs=4)
    ours.fit(Line([0.1, 0.7, 0.3, 0.6]))
    assert epoch_of(ours.best_checkpoint) == 1
    assert epoch_of(ours.last_checkpoint) == 3
    assert ours.best_score == pytest.approx(0.7)
    checkpoints = tmp_path / "train" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert ours.best_checkpoint == checkpoints / "best.ckpt"
    rows = list(csv.DictReader((tmp_path / "train" / "metrics.csv").read_text().splitlines()))
    scores = [float(row["val/score"]) for row in rows if row["val/score"]]
    assert scores == pytest.approx([0.1, 0.7, 0.3, 0.6])
    assert any(row["train/loss"] for row in rows)
    assert capfd.readouterr() == ("", "")


def test_smaller_is_better_for_a_loss(tmp_path: Path) -> None:
    ours = trainer(tmp_path, max_epochs=3, checkpoint_monitor="val/loss")
    ours.fit(Line([0.5, 0.2, 0.3]))
    assert epoch_of(ours.best_checkpoint) == 1


def test_last_is_of_every_epoch_however_rarely_it_is_validated(tmp_path: Path) -> None:
    ours = trainer(tmp_path, max_epochs=3, check_val_every_n_epoch=2)
    ours.fit(Line([0.5, 0.2, 0.3]))
    assert epoch_of(ours.best_checkpoint) == 1
    assert epoch_of(ours.last_checkpoint) == 2
    often = trainer(tmp_path, max_epochs=2, val_check_interval=1)
    often.fit(Line([0.5, 0.2]))
    assert epoch_of(often.best_checkpoint) == 0
    assert epoch_of(often.last_checkpoint) == 1


@pytest.mark.parametrize("kwargs", [{"checkpoint_monitor": None}, {"limit_val_batches": 0}])
def test_without_a_metric_the_best_is_the_latest(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    ours = trainer(tmp_path, max_epochs=2, **kwargs)
    ours.fit(Line([0.5, 0.2]))
    assert epoch_of(ours.best_checkpoint) == 1
    assert ours.best_score is None


def test_each_fit_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        trainer(tmp_path, max_epochs=1, name="line").fit(Line([0.5]))
    again = trainer(tmp_path, max_epochs=1, name="line")
    again.fit(Line([0.5]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line", "line-2", "line-3"]
    assert again.best_checkpoint.parents[1].name == "line-3"


def test_a_resumed_run_goes_on_and_remembers_the_best(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=2)
    first.fit(Line([0.9, 0.4]))
    worse = trainer(tmp_path, max_epochs=4)
    worse.fit(Line([0, 0, 0.5, 0.6]), ckpt_path=first.last_checkpoint)
    assert worse.current_epoch == 4
    assert worse.best_checkpoint == first.best_checkpoint  # not beaten
    assert worse.best_score == pytest.approx(0.9)
    assert epoch_of(worse.last_checkpoint) == 3
    better = trainer(tmp_path, max_epochs=4)
    better.fit(Line([0, 0, 0.95, 0.1]), ckpt_path=first.last_checkpoint)
    assert epoch_of(better.best_checkpoint) == 2
    assert epoch_of(first.best_checkpoint) == 0  # the earlier run is as it was
    assert epoch_of(first.last_checkpoint) == 1


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    done = trainer(tmp_path, max_epochs=2)
    done.fit(Line([0.5, 0.6]))
    again = trainer(tmp_path / "again", max_epochs=2)
    with pytest.raises(ConfigError, match="has done 2 epochs"):
        again.fit(Line([0.5, 0.6]), ckpt_path=done.last_checkpoint)
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of a training"):
        again.fit(Line([0.5]), ckpt_path=tmp_path / "weights.pth")
    assert not (tmp_path / "again").exists()


def test_the_same_trainer_goes_on_from_its_last(tmp_path: Path) -> None:
    ours = trainer(tmp_path, max_epochs=1)
    ours.fit(Line([0.5]))
    ours.fit_loop.max_epochs = 2
    ours.fit(Line([0.5, 0.6]), ckpt_path="last")
    assert epoch_of(ours.last_checkpoint) == 1


def test_early_stopping(tmp_path: Path) -> None:
    ours = trainer(tmp_path, max_epochs=9, early_stopping=2)
    ours.fit(Line([0.1, 0.5, 0.4, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9]))
    assert ours.current_epoch == 4
    assert epoch_of(ours.best_checkpoint) == 1


def test_the_seed_fixes_the_training(tmp_path: Path) -> None:
    class Noisy(Line):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return (self.weight * torch.randn(1)).sum()

    weights = []
    for seed in (1, 1, 2):
        model = Noisy([0.5])
        trainer(tmp_path, max_epochs=1, seed=seed).fit(model)
        weights.append(model.weight.item())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(("step", "epoch"), [(2, 0), (4, 0)])  # in the first epoch, and after it
def test_ctrl_c_leaves_a_last_checkpoint(tmp_path: Path, step: int, epoch: int) -> None:
    handler = signal.getsignal(signal.SIGINT)
    ours, model = trainer(tmp_path, max_epochs=3), Line([0.5, 0.6, 0.7])
    model.fails_at = step, KeyboardInterrupt()
    try:
        with pytest.raises(KeyboardInterrupt, match=r"go on with --resume .*last\.ckpt"):
            ours.fit(model)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert epoch_of(ours.last_checkpoint) == epoch
    assert torch.load(ours.last_checkpoint, weights_only=True)["global_step"] == min(step, 3)


def test_a_run_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    model = Line([0.5])
    model.fails_at = 0, RuntimeError("bad data")
    with pytest.raises(RuntimeError, match="bad data"):
        trainer(tmp_path, max_epochs=1).fit(model)
    assert list(tmp_path.iterdir()) == []


def test_users_own_callbacks_and_arguments_are_kept(tmp_path: Path) -> None:
    every = ModelCheckpoint(dirpath=tmp_path / "every", save_top_k=-1, filename="{epoch}")
    ours = trainer(
        tmp_path,
        max_epochs=2,
        callbacks=[every, LearningRateMonitor()],
        gradient_clip_val=0.5,
        log_every_n_steps=2,
        accumulate_grad_batches=3,
    )
    ours.fit(Line([0.5, 0.6]))
    assert ours.gradient_clip_val == 0.5
    assert ours.global_step == 2
    assert len(list((tmp_path / "every").iterdir())) == 2
    assert epoch_of(ours.best_checkpoint) == 1


def test_nothing_is_written_where_nothing_is_wanted(tmp_path: Path) -> None:
    trainer(tmp_path, max_epochs=1, logger=False, enable_checkpointing=False).fit(Line([0.5]))
    trial = trainer(tmp_path, fast_dev_run=True)
    trial.fit(Line([0.5]))
    trial.validate(Line([0.5]), verbose=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="no checkpoint"):
        _ = trial.best_checkpoint


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        trainer(tmp_path).fit(Line([0.5]), ckpt_path=tmp_path / "none.ckpt")
    with pytest.raises(ConfigError, match="early_stopping"):
        trainer(tmp_path, early_stopping=2, checkpoint_monitor=None).fit(Line([0.5]))
    with pytest.raises(ConfigError, match="not been fitted"):
        _ = trainer(tmp_path).last_checkpoint


def test_a_metric_to_watch_that_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric to watch, 'val/scor'; did you mean val/score"):
        trainer(tmp_path, max_epochs=2, checkpoint_monitor="val/scor", early_stopping=2).fit(Line([0.5, 0.6]))


def test_which_way_is_better(tmp_path: Path) -> None:
    ours = trainer(tmp_path, max_epochs=3, checkpoint_mode="min")
    ours.fit(Line([0.5, 0.2, 0.3]))
    assert epoch_of(ours.best_checkpoint) == 1
    assert (mode_of("val/error"), mode_of("val/HammingDistance"), mode_of("val/map")) == ("min", "min", "max")
    with pytest.raises(ConfigError, match="auto, min or max"):
        trainer(tmp_path, checkpoint_mode="lowest")


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_a_training_that_ends_before_it_is_validated_has_a_summary(tmp_path: Path) -> None:
    for limits in ({"max_steps": 2}, {"max_epochs": 1, "check_val_every_n_epoch": 5}):
        ours = trainer(tmp_path, **limits)
        ours.fit(Line([0.5]))
        assert ours.summary.best_checkpoint == ours.last_checkpoint
        assert (ours.summary.best_epoch, ours.summary.best_score) == (None, None)


def test_a_disk_that_fills_up_leaves_no_checkpoint(tmp_path: Path) -> None:
    """The operating system itself refuses to write on, past a limit on the size of files."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(AutoTimmError, match=r"best\.ckpt: could not be written"):
            trainer(tmp_path, max_epochs=1, logger=False).fit(Line([0.5]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_run_that_keeps_nothing_leaves_no_folder(tmp_path: Path) -> None:
    line = Line([0.5])
    line.fails_at = (2, ValueError("no number"))
    with pytest.raises(ValueError, match="no number"):
        trainer(tmp_path, max_epochs=2).fit(line)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="nothing to train"):
        trainer(tmp_path, max_epochs=0).fit(Line([0.5]))
