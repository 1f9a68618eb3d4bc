from __future__ import annotations

import csv
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader, TensorDataset

from autotimm.runtime.errors import BackendUnavailableError, ConfigError
from autotimm.training import loggers
from autotimm.training.loggers import LoggerConfig, build_loggers, logger_configs


class Line(pl.LightningModule):
    """Three steps, whose loss is 1, 2, 3."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.save_hyperparameters({"width": 1})

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.log("train/loss", float(index + 1))
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(made: list[Logger]) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=made,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's about this training, and those of the loggers' packages
        trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(3, 1))))


def csv_losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def test_the_csv_log_lies_in_the_folder_of_the_run(tmp_path: Path) -> None:
    configs, own = logger_configs(True)
    assert (configs, own) == ((LoggerConfig("csv"),), False)
    train(build_loggers(configs, tmp_path))
    assert csv_losses(tmp_path) == [1, 2, 3]


def test_tensorboard_and_csv_at_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    configs, _ = logger_configs(["csv", {"backend": "tensorboard", "params": {"flush_secs": 5}}])
    train(build_loggers(configs, tmp_path))
    assert csv_losses(tmp_path) == [1, 2, 3]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [1, 2, 3]


def test_wandb_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    config = LoggerConfig("wandb", {"mode": "offline", "project": "tests"})
    (logger,) = build_loggers([config], tmp_path / "my run")
    assert logger.experiment.name == "my run"  # type: ignore[attr-defined]
    train([logger])
    logger.experiment.finish()  # type: ignore[attr-defined]
    assert list((tmp_path / "my run" / "wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_in_the_folder_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my run"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own use of what SQLAlchemy has deprecated
        (logger,) = build_loggers([LoggerConfig("mlflow", {"experiment_name": "tests"})], folder)
    train([logger])
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my run"
    assert [entry.value for entry in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["my run"]  # nothing beside it


def test_what_a_logger_may_be() -> None:
    assert logger_configs(None)[0] == logger_configs("csv")[0] == (LoggerConfig(),)
    assert logger_configs(False) == ((), False)
    assert logger_configs([]) == ((), False)
    mapping = {"backend": "csv", "params": {"flush_logs_every_n_steps": 1}}
    assert logger_configs(mapping)[0] == logger_configs([LoggerConfig(**mapping)])[0]
    ready = CSVLogger("logs")
    assert logger_configs(ready) == ((), ready)
    assert logger_configs([ready]) == ((), [ready])


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ("tensorbord", "no logger 'tensorbord'; did you mean tensorboard"),
        ({"backnd": "csv"}, "field of a logger .* 'backnd'; did you mean backend"),
        (
            {"backend": "csv", "params": {"flush_logs_every": 1}},
            "'flush_logs_every'; did you mean flush_logs_every_n_steps",
        ),
        ({"backend": "csv", "params": {"save_dir": "logs"}}, "argument of the logger csv 'save_dir'"),
        ({"backend": "csv", "params": ["prefix"]}, "must be a mapping of argument names"),
        (3, "3 does not describe a logger; .* csv, tensorboard, wandb, mlflow"),
        (["csv", CSVLogger("logs")], "one kind or the other"),
        (["csv", {"backend": "csv"}], "logger has csv twice"),
    ],
)
def test_mistakes_are_found_before_a_training(logger: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        logger_configs(logger)


@pytest.mark.parametrize(
    ("backend", "misspelt", "meant"),
    [("tensorboard", "flsh_secs", "flush_secs"), ("wandb", "prject", "project"), ("mlflow", "run_nam", "run_name")],
)
def test_the_arguments_of_other_packages_are_known(backend: str, misspelt: str, meant: str) -> None:
    pytest.importorskip(backend)
    with pytest.raises(ConfigError, match=rf"{misspelt}'; did you mean .*{meant}"):
        logger_configs({"backend": backend, "params": {misspelt: 1}})


@pytest.mark.parametrize("backend", ["tensorboard", "wandb", "mlflow"])
def test_a_package_that_is_absent(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match=rf"needs {backend}, which is not installed: pip install"):
        logger_configs(["csv", backend])


def test_what_a_logger_says_of_itself_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(ConfigError, match=r"logger tensorboard cannot be made with \{'sub_dir': 5\}: expected str"):
        build_loggers([LoggerConfig("tensorboard", {"sub_dir": 5})], tmp_path)


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_an_account_is_asked_for_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="log in with: wandb login, or give the param mode: offline"):
        build_loggers([LoggerConfig("wandb")], tmp_path)
