"""Which process sees which sample when: orders that depend on a seed and an epoch only, in equal shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from autotimm.runtime.errors import ConfigError, DataError

SampleKey = tuple[int, int] | tuple[int, int, Any]
"""Index of a sample, the seed of its augmentation, and the setting of its batch where batches have one."""

BatchPlan = Callable[[int, int], Any]
"""From an epoch and a batch of it, both counted from 0 and the same in all processes, to the setting of that batch."""


class SeededSampler(DistributedSampler[SampleKey]):
    """The order of training, with augmentation seeds that depend on nothing but the seed and the epoch.

    So a training gives the same batches with any number of worker processes, and a resumed one goes on with the
    batches of the epoch it resumes. Several processes share what one process with their summed batch would see: of
    each block of ``world_size * batch_size`` samples the process of rank r takes the r-th part. A last, incomplete
    block is left out, unless it is the only one: that is shared out as evenly as possible.

    Of torch's class it has only the name, by which Lightning knows that it needs no sampler of Lightning's own.

    Args:
        length: number of samples.
        seed: of the order and of the augmentation seeds.
        batch_size: samples a step in each process.
        rank: of this process.
        world_size: number of processes.
        weights: how much more often one sample is drawn than another, ``[length]``; samples are then drawn with
            replacement, ``length`` of them an epoch. Each sample once where absent.
        plan: gives what the samples of a batch share, such as their size; it becomes the third part of their keys. It
            is asked when an epoch begins.

    Raises:
        DataError: there are fewer samples than processes.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[float] | Tensor | None = None,
        plan: BatchPlan | None = None,
    ) -> None:
        if length < world_size:
            raise DataError(
                f"there are {length} images to train on, but {world_size} processes; each needs one at least: "
                "train with fewer devices"
            )
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.weights = None if weights is None else _checked_weights(weights, length)
        self.plan = plan
        self.epoch = 0
        self._skipped_batches = 0

    @property
    def global_batch(self) -> int:
        """Samples a step in all processes together."""
        return self.world_size * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Lightning's hook, before each epoch."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Leave out so many batches at the beginning of the next pass: they were seen before a run was resumed."""
        self._skipped_batches = batches

    def __len__(self) -> int:
        """Samples of this process in a whole epoch."""
        blocks = self.length // self.global_batch
        return blocks * self.batch_size if blocks else len(self._share_of_all())

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        self.epoch += 1
        skipped, self._skipped_batches = self._skipped_batches, 0
        order = self._order(generator)
        seeds = torch.randint(1 << 62, (self.length,), generator=generator)
        blocks = self.length // self.global_batch
        if blocks:
            # [blocks, processes, samples of one batch]: this process's column
            mine = torch.arange(blocks * self.global_batch).reshape(blocks, self.world_size, self.batch_size)
            positions = mine[skipped:, self.rank].reshape(-1)
        else:
            share = self._share_of_all()
            positions = torch.arange(share.start, share.stop)[skipped * self.batch_size :]
        keys = list(zip(order[positions].tolist(), seeds[positions].tolist(), strict=True))
        if self.plan is None:
            return iter(keys)
        batches = range(skipped, skipped + -(-len(keys) // self.batch_size))
        settings = [self.plan(epoch, batch) for batch in batches]
        return iter([(*key, settings[place // self.batch_size]) for place, key in enumerate(keys)])

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.weights is None:
            return torch.randperm(self.length, generator=generator)
        # inverse of the cumulative distribution; torch.multinomial takes no more than 2**24 samples
        bounds = self.weights.cumsum(0)
        drawn = torch.rand(self.length, generator=generator, dtype=torch.float64) * bounds[-1]
        return torch.searchsorted(bounds, drawn, right=True).clamp_(max=self.length - 1)

    def _share_of_all(self) -> range:
        """Positions of this process in data that is smaller than one block."""
        first, end = (self.length * part // self.world_size for part in (self.rank, self.rank + 1))
        return range(first, end)


class ShardSampler(SequentialSampler, DistributedSampler[int]):
    """One process's part of an evaluation: the samples in order, in as many batches as every other process has.

    Processes wait for each other at each batch, so all parts have the same length: where the samples do not suffice,
    the last one is repeated, and only the first :attr:`own` samples of a part count. By the names of its two classes
    Lightning knows that it goes in order and that it shares out.

    Args:
        length: number of samples.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.world_size = world_size
        size = -(-length // world_size)
        self.part = range(rank * size, (rank + 1) * size)
        self._begin_pass()

    def _begin_pass(self) -> None:
        self._whole = min(self.part.stop, self.length) - min(self.part.start, self.length)
        self._seen = 0
        self.own = self._whole
        """So many samples of this pass count, the first ones; those after them are repetitions. Fewer once images were
        left out, so to be read after each batch."""

    def left_out(self, batch_size: int, places: Sequence[int]) -> None:
        """Note that the next batch of this pass comes without the samples in these places."""
        self.own -= sum(self._seen + place < self._whole for place in places)
        self._seen += batch_size

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[int]:
        self._begin_pass()
        return iter([min(index, self.length - 1) for index in self.part])


def _checked_weights(weights: Sequence[float] | Tensor, length: int) -> Tensor:
    checked = torch.as_tensor(weights, dtype=torch.float64)
    if checked.shape != (length,) or not bool((checked >= 0).all()) or not float(checked.sum()) > 0:
        raise ConfigError(f"sampling weights must be {length} numbers of at least 0, not all of them 0")
    return checked
