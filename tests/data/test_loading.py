import os
import signal
import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import Dataset

from autotimm.data.bad_images import BadImages, EvaluationSamples, TrainingSamples
from autotimm.data.loading import ImageLoader, default_workers, make_loader
from autotimm.data.samplers import SeededSampler, ShardSampler
from autotimm.runtime.errors import ConfigError, DataError, DataWarning


class Squares(Dataset):
    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key):
        index, seed = key if isinstance(key, tuple) else (key, 0)
        if index == self.bad:
            return DataError("sample 7 is bad")
        return index * index, seed


def collate(samples: list[tuple[int, int]]) -> torch.Tensor:
    return torch.tensor(samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_once_and_again_next_epoch(workers: int) -> None:
    loader = make_loader(Squares(), collate, 4, workers, SeededSampler(10, 0, batch_size=4))
    first, second = ([batch.tolist() for batch in loader] for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4]  # the last two are left out
    expected = SeededSampler(10, 0, batch_size=4)
    assert [row for batch in first for row in batch] == [[index * index, seed] for index, seed in list(expected)[:8]]
    assert [row for batch in second for row in batch] == [[index * index, seed] for index, seed in list(expected)[:8]]


def test_evaluation_is_in_order_and_complete() -> None:
    batches = list(make_loader(Squares(), collate, 4, 0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(torch.cat(batches)[:, 0], np.arange(10) ** 2)


def test_a_data_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [len(batch) for batch in make_loader(Squares(), collate, 64, 0, SeededSampler(10, 0, batch_size=64))] == [10]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_arrives_as_it_is(workers: int) -> None:
    with pytest.raises(DataError, match=r"^sample 7 is bad$"):
        list(make_loader(Squares(bad=7), collate, 4, workers))


def test_impossible_numbers() -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        make_loader(Squares(), collate, 0, 0)


def test_default_workers_leave_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 0), (2, 0), (4, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        assert default_workers() == workers


def training(workers: int = 0, batch: int = 3, length: int = 10, **sampler: Any) -> ImageLoader:
    return make_loader(Squares(), collate, batch, workers, SeededSampler(length, 7, batch_size=batch, **sampler))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_a_resumed_epoch_has_exactly_the_batches_that_are_left(stopped_after: int, workers: int) -> None:
    whole = training(workers)
    epochs = [[batch.tolist() for batch in whole] for _ in range(3)]
    stopped = training(workers)
    list(stopped)
    batches = iter(stopped)
    for _ in range(stopped_after):
        next(batches)
    state = stopped.state_dict()
    assert all(type(value) is int for value in state.values())
    resumed = training(2 - workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert [batch.tolist() for batch in resumed] == epochs[1][stopped_after:]
    assert [batch.tolist() for batch in resumed] == epochs[2]


def test_another_number_of_processes_can_resume_with_the_same_batches() -> None:
    alone = training(batch=4, length=18)
    expected = [batch.tolist() for batch in alone]
    batches = iter(alone)
    alone.sampler.set_epoch(0)
    next(batches)
    ranks = [training(batch=2, length=18, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(alone.state_dict())
    together = [[row for part in parts for row in part.tolist()] for parts in zip(*ranks, strict=True)]
    assert together == expected[1:]


@pytest.mark.parametrize(
    ("other", "says"),
    [({"batch": 2}, "batch size over all processes 3 then, 2 now"), ({"length": 9}, "training images 10 then, 9 now")],
)
def test_batches_that_changed_are_not_resumed(other: dict[str, int], says: str) -> None:
    """Amid an epoch and after one: the schedule has the length of the batches that there were."""
    stopped = training()
    batches = iter(stopped)
    next(batches)
    for _ in ("amid", "after"):
        with pytest.raises(ConfigError, match=says):
            training(**other).load_state_dict(stopped.state_dict())
        list(batches)


class Recorder(pl.LightningModule):
    """Notes the batches it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.rows: list[list[list[int]]] = []

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.rows.append(batch.tolist())
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*tensorboard", "ignore:.*ModelCheckpoint")
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_lightning_resumes_amid_an_epoch(tmp_path: Any, steps: int) -> None:
    def trainer(**options: Any) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            default_root_dir=tmp_path,
            **options,
        )

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == steps:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    whole = Recorder()
    trainer(max_epochs=3, enable_checkpointing=False, callbacks=[Save()]).fit(whole, training())
    resumed = Recorder()
    trainer(max_epochs=3, enable_checkpointing=False).fit(
        resumed, training(), ckpt_path=tmp_path / "amid.ckpt", weights_only=True
    )
    assert len(whole.rows) == 9
    assert resumed.rows == whole.rows[steps:]


def test_loading_draws_nothing_from_the_global_generators() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    for workers in (0, 1):
        list(training(workers))
    assert torch.equal(torch.rand(2), expected)


class Deadly(Dataset):
    def __init__(self, deed: str) -> None:
        self.deed = deed

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int]:
        if index == 5 and self.deed == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 5 and self.deed == "sleeps":
            time.sleep(60)
        return index, 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a process cannot be killed like this here")
@pytest.mark.parametrize(
    ("deed", "says"),
    [("dies", "one of the 2 processes .* is dead .*num_workers"), ("sleeps", "gave a batch in time .*num_workers=0")],
)
def test_workers_that_die_or_hang_end_in_a_sentence(deed: str, says: str) -> None:
    loader = make_loader(Deadly(deed), collate, 2, 2, timeout=2)
    with pytest.raises(DataError, match=says) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    threads = threading.active_count()
    del loader, caught
    assert threading.active_count() <= threads


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("DataLoader is not to blame")


def test_errors_of_the_data_set_itself_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="not to blame"):
        list(make_loader(Broken(), collate, 1, 0))


class Training(TrainingSamples):
    def __init__(self, bad: set[int], policy: Any = "skip") -> None:
        super().__init__(policy)
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def load(self, index: int, seed: int) -> tuple[int, int]:
        if index in self.bad:
            raise DataError(f"{index} is bad")
        return index, seed


class Evaluation(EvaluationSamples):
    def __init__(self, bad: set[int], policy: Any = "skip") -> None:
        super().__init__(policy, "validation")
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def load(self, index: int) -> tuple[int, int]:
        if index in self.bad:
            raise DataError(f"{index} is bad")
        return index, 0


@pytest.mark.parametrize("workers", [0, 2])
def test_training_takes_the_next_image_in_place_of_a_bad_one(workers: int) -> None:
    bad_images = BadImages("skip")
    loader = make_loader(
        Training({3, 4, 9}), collate, 5, workers, SeededSampler(10, 0, batch_size=5), bad_images=bad_images
    )
    with pytest.warns(DataWarning) as caught:
        first, _ = (torch.cat(list(loader)).tolist() for _ in range(2))
    assert first == [[{3: 5, 4: 5, 9: 0}.get(index, index), seed] for index, seed in SeededSampler(10, 0, batch_size=5)]
    assert sorted(bad_images.seen) == [f"training image {index} is bad" for index in (3, 4, 9)]
    assert len(caught) == 3  # each once
    assert "passed over a training image" in str(caught[0].message)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_bad_images_out(workers: int) -> None:
    loader = make_loader(Evaluation({0, 4, 5}), collate, 2, workers, bad_images=BadImages("skip"))
    with pytest.warns(DataWarning) as caught:
        sizes = [[row[0] for row in batch.tolist()] for batch in loader]
    assert sizes == [[1], [2, 3], [6, 7], [8, 9]]
    assert len(caught) == 3
    assert loader.sampler.own == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader)) == 4


def test_padding_is_still_known_where_images_were_left_out() -> None:
    loader = make_loader(Evaluation({8}), collate, 2, 0, ShardSampler(10, 1, 3), bad_images=BadImages("skip"))
    assert [row[0] for batch in loader for row in batch.tolist()] == [4, 5, 6, 7]
    loader = make_loader(Evaluation({8}), collate, 3, 0, ShardSampler(10, 2, 3), bad_images=BadImages("skip"))

    def counted() -> list[int]:
        indices: list[int] = []
        for batch in loader:  # as a model counts: so many of all that came
            indices += batch[:, 0].tolist()
            del indices[loader.sampler.own :]
        return indices

    with pytest.warns(DataWarning):
        assert counted() == [9]


def test_nothing_but_bad_images() -> None:
    everything = set(range(10))
    with pytest.raises(DataError, match="none of the 10 images to train on can be read; the first"):
        list(make_loader(Training(everything), collate, 2, 0, SeededSampler(10, 0, batch_size=2)))
    with pytest.warns(DataWarning), pytest.raises(DataError, match="none of the images can be read; the first"):
        list(make_loader(Evaluation(everything), collate, 2, 0, bad_images=BadImages("skip")))
    with pytest.warns(DataWarning), pytest.raises(DataError, match="no image of its batch can be read"):
        list(make_loader(Evaluation({0, 1}), collate, 2, 0, ShardSampler(10, 0, 2), bad_images=BadImages("skip")))


@pytest.mark.parametrize("samples", [Training({2}, "refuse"), Evaluation({2}, "refuse")])
def test_refusing_stops_at_the_first(samples: Any) -> None:
    with pytest.raises(DataError, match="image 2 is bad"):
        list(make_loader(samples, collate, 2, 0))
    with pytest.raises(ConfigError, match="did you mean skip"):
        BadImages("skipp")
