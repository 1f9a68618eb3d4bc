import os

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from autotimm.data.loading import default_workers, make_loader
from autotimm.data.samplers import SeededSampler
from autotimm.runtime.errors import ConfigError, DataError


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


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    sampler = SeededSampler(50, 3, batch_size=1)
    epochs = [list(sampler) for _ in range(3)]
    assert all(sorted(index for index, _ in epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    resumed = SeededSampler(50, 3, batch_size=1)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(SeededSampler(50, 4, batch_size=1)) != epochs[0]


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
