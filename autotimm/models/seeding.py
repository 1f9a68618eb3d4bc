"""Random numbers that depend on a seed and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch


@contextmanager
def seeded_weights(seed: int | None) -> Iterator[None]:
    """Draw weights from a seed, and leave torch's generator as it was; with ``None`` draw from the generator itself."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python, and those of the data loaders' workers."""
    pl.seed_everything(seed, workers=True, verbose=False)
