import numpy as np
import pytest
import torch

from autotimm.data.samplers import SampleKey, SeededSampler, ShardSampler
from autotimm.runtime.errors import ConfigError, DataError


def batches(sampler: SeededSampler) -> list[list[SampleKey]]:
    keys = list(sampler)
    return [keys[start : start + sampler.batch_size] for start in range(0, len(keys), sampler.batch_size)]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    sampler = SeededSampler(50, 3, batch_size=1)
    epochs = [list(sampler) for _ in range(3)]
    assert all(sorted(index for index, _ in epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    resumed = SeededSampler(50, 3, batch_size=10)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    assert list(SeededSampler(50, 4, batch_size=1)) != epochs[0]


@pytest.mark.parametrize("weights", [None, [1.0] * 30 + [4.0] * 20])
@pytest.mark.parametrize(("length", "batch", "world"), [(50, 4, 1), (50, 4, 3), (48, 4, 3), (50, 1, 2), (50, 25, 2)])
def test_processes_share_the_batches_of_one(length: int, batch: int, world: int, weights: list[float] | None) -> None:
    weights = None if weights is None else weights[:length]
    alone = SeededSampler(length, 5, batch_size=batch * world, weights=weights)
    ranks = [
        SeededSampler(length, 5, batch_size=batch, rank=rank, world_size=world, weights=weights)
        for rank in range(world)
    ]
    for _ in range(2):
        expected = batches(alone)
        shared = [batches(rank) for rank in ranks]
        together = [[key for rank in shared for key in rank[step]] for step in range(len(shared[0]))]
        assert together == expected
        assert len(expected) == length // (batch * world)
        assert {len(rank) for rank in ranks} == {sum(map(len, rank)) for rank in shared}
        assert {len(part) for rank in shared for part in rank} == {batch}


@pytest.mark.parametrize(("length", "world", "sizes"), [(10, 1, {10}), (10, 3, {3, 4}), (3, 3, {1})])
def test_data_smaller_than_one_block_is_shared_out(length: int, world: int, sizes: set[int]) -> None:
    expected = list(SeededSampler(length, 0, batch_size=16 * world))
    ranks = [SeededSampler(length, 0, batch_size=16, rank=rank, world_size=world) for rank in range(world)]
    parts = [list(rank) for rank in ranks]
    assert [key for part in parts for key in part] == expected
    assert len(expected) == length
    assert {len(part) for part in parts} == sizes
    assert [len(rank) for rank in ranks] == [len(part) for part in parts]


def test_fewer_samples_than_processes() -> None:
    with pytest.raises(DataError, match="3 images to train on, but 4 processes"):
        SeededSampler(3, 0, batch_size=1, world_size=4)


@pytest.mark.parametrize("world", [1, 2])
def test_skipping_leaves_the_rest_of_the_epoch(world: int) -> None:
    def sampler() -> SeededSampler:
        return SeededSampler(40, 1, batch_size=3, rank=world - 1, world_size=world)

    whole = sampler()
    first, second = batches(whole), batches(whole)
    resumed = sampler()
    resumed.skip(2)
    assert batches(resumed) == first[2:]
    assert batches(resumed) == second
    resumed.set_epoch(0)
    resumed.skip(len(first))
    assert list(resumed) == []


def test_weights_govern_how_often_a_sample_is_drawn() -> None:
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    sampler = SeededSampler(4000, 0, batch_size=1, weights=torch.from_numpy(np.repeat(weights, 1000)))
    drawn = np.bincount([index // 1000 for _ in range(3) for index, _ in sampler], minlength=4)
    np.testing.assert_allclose(drawn / drawn.sum(), weights / weights.sum(), atol=0.02)
    assert len({seed for _, seed in sampler}) == 4000
    for wrong in ([1.0, 2.0], [0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="weights must be 3 numbers"):
            SeededSampler(3, 0, batch_size=1, weights=wrong)


@pytest.mark.parametrize(("length", "world"), [(10, 1), (10, 3), (9, 3), (2, 3), (1, 4), (5, 4)])
def test_shards_of_an_evaluation_are_equal_and_count_each_sample_once(length: int, world: int) -> None:
    shards = [ShardSampler(length, rank, world) for rank in range(world)]
    assert {len(list(shard)) for shard in shards} == {len(shard) for shard in shards} == {-(-length // world)}
    own = [index for shard in shards for index in list(shard)[: shard.own]]
    assert own == list(range(length))
    assert all(0 <= index < length for shard in shards for index in shard)


def test_what_was_left_out_does_not_count() -> None:
    shard = ShardSampler(8, 1, 3)  # 3, 4, 5
    assert shard.own == 3
    last = ShardSampler(8, 2, 3)  # 6, 7 and 7 again
    assert (list(last), last.own) == ([6, 7, 7], 2)
    last.left_out(2, [1])
    assert last.own == 1
    last.left_out(1, [0])  # a repetition: it did not count anyway
    assert last.own == 1
    list(last)
    assert last.own == 2
