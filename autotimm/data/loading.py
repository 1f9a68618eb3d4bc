"""Data loaders that give the same batches for the same seed, resume within an epoch, and fail readably."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from autotimm.data.bad_images import BadImages, PassedOver
from autotimm.data.samplers import SeededSampler, ShardSampler
from autotimm.runtime.errors import AutoTimmError, ConfigError, DataError, one_line

WORKER_TIMEOUT = 300.0
"""Seconds in which workers must make a batch. A slow network disk needs a part of them; a deadlock never ends."""


def default_workers() -> int:
    """Processes that decode images: all cores but one, at most 8; none where they would take the training's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores - 1) if cores > 2 else 0


class Loaded(NamedTuple):
    """What a worker hands over."""

    batch: Any
    """None where every image of it was left out."""
    bad: tuple[tuple[int, str], ...] = ()
    """Bad images: their place in the batch as it was meant to be, and what is wrong with them."""


class Collate:
    """Collate samples into a batch without those that were left out, or pass the first error among them on.

    Args:
        collate: makes a batch of samples.
        bad_images: what is done about images that cannot be read.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], bad_images: BadImages) -> None:
        self.collate, self.bad_images = collate, bad_images

    def __call__(self, samples: list[Any]) -> Loaded | AutoTimmError:
        """A batch with what was passed over, or an error as a value."""
        kept, bad = [], []
        for place, sample in enumerate(samples):
            if isinstance(sample, AutoTimmError):
                return sample
            if isinstance(sample, PassedOver):
                bad += [(place, message) for message in sample.bad]
                sample = sample.sample  # noqa: PLW2901
            if sample is not None:
                kept.append(sample)
        return Loaded(self.collate(kept) if kept else None, tuple(bad))


class ImageLoader(DataLoader[Any]):
    """A ``DataLoader`` that can resume within an epoch, and whose workers fail with a readable error.

    An :class:`AutoTimmError` arrives as it is, not as the text of a worker's traceback; a worker that was killed or is
    stuck becomes a :class:`DataError`. Lightning finds ``state_dict`` and ``load_state_dict``, and keeps the place in
    the epoch in its checkpoints.
    """

    _epoch = 0
    _handed_over = 0
    _resumed: Mapping[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """Where in the training data a run is: the epoch, and how many batches of it were handed over."""
        return {"epoch": self._epoch, "batches": self._handed_over, **self._geometry()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where :meth:`state_dict` was called: the next pass gives the batches that are left of that epoch."""
        if isinstance(self.sampler, SeededSampler):
            self._check_same_batches(state)
            self.sampler.set_epoch(state["epoch"])
            self._epoch, self._handed_over, self._resumed = state["epoch"], state["batches"], dict(state)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so that all of this happens at the first batch: by then Lightning has told the sampler its epoch.
        self._begin_epoch()
        for loaded in self._from_workers():
            if isinstance(loaded, AutoTimmError):
                raise loaded
            self._report(loaded)
            if loaded.batch is not None:
                self._handed_over += 1
                yield loaded.batch
        if isinstance(self.sampler, ShardSampler) and self._handed_over == 0 and len(self):
            raise DataError(f"none of the images can be read; the first is the {next(iter(self._bad_images.seen))}")
        self._epoch, self._handed_over = self._epoch + 1, 0

    def _begin_epoch(self) -> None:
        self._handed_over = 0
        resumed, self._resumed = self._resumed, None
        if not isinstance(self.sampler, SeededSampler):
            return
        self._epoch = self.sampler.epoch
        if resumed is not None and resumed["epoch"] == self._epoch:
            self.sampler.skip(resumed["batches"])
            self._handed_over = resumed["batches"]

    def _geometry(self) -> dict[str, int]:
        """What makes the batches of an epoch these and no others."""
        sampler = self.sampler
        if not isinstance(sampler, SeededSampler):
            return {}
        return {"length": sampler.length, "seed": sampler.seed, "global_batch": sampler.global_batch}

    def _check_same_batches(self, state: Mapping[str, int]) -> None:
        now = self._geometry()
        changed = [
            f"{name} {state.get(key)} then, {now[key]} now"
            for key, name in (
                ("length", "training images"),
                ("seed", "seed of the data"),
                ("global_batch", "batch size over all processes"),
            )
            if state.get(key) != now[key]
        ]
        if changed:
            raise ConfigError(
                f"the training was stopped after {state['batches']} batches of epoch {state['epoch'] + 1} and cannot "
                f"go on from there, since its batches are others now: {'; '.join(changed)}. Restore these, or start "
                "from the checkpoint's weights instead of resuming"
            )

    def _from_workers(self) -> Iterator[Any]:
        try:
            batches = super().__iter__()
            while True:
                try:
                    loaded = next(batches)
                except StopIteration:
                    return
                yield loaded
        except RuntimeError as error:
            # torch knows these failures by their texts only
            if not str(error).startswith(("DataLoader worker", "DataLoader timed out", "Pin memory thread")):
                raise
            self._iterator = None  # a later pass starts new workers
            raise _worker_error(error, self.num_workers) from error

    @property
    def _bad_images(self) -> BadImages:
        return self.collate_fn.bad_images  # type: ignore[no-any-return, union-attr]  # it is always a Collate

    def _report(self, loaded: Loaded) -> None:
        for _, message in loaded.bad:
            self._bad_images.report(message)
        if not isinstance(self.sampler, ShardSampler):
            return
        self.sampler.left_out(self.batch_size or 1, [place for place, _ in loaded.bad])
        if loaded.batch is None and self.sampler.world_size > 1:  # the other processes wait for this batch
            raise DataError(f"{loaded.bad[0][1]}, and no image of its batch can be read; remove them from the data")


def _worker_error(error: RuntimeError, num_workers: int) -> DataError:
    if str(error).startswith("DataLoader timed out"):
        return DataError(
            f"none of the {num_workers} processes that load images gave a batch in time ({one_line(error)}); they wait "
            "for a disk that does not answer, or hang in a library: num_workers=0 loads without them and shows where"
        )
    return DataError(
        f"one of the {num_workers} processes that load images is dead ({one_line(error)}); most often the system "
        "killed it for want of memory: use fewer num_workers or a smaller batch_size, or num_workers=0 to load without"
    )


def make_loader(
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    num_workers: int,
    sampler: SeededSampler | ShardSampler | None = None,
    *,
    bad_images: BadImages | None = None,
    timeout: float = WORKER_TIMEOUT,
) -> ImageLoader:
    """A loader for training or evaluation, by its sampler.

    Args:
        dataset: gives samples, or the :class:`AutoTimmError` that keeps it from doing so, or :class:`PassedOver`.
        collate: makes a batch of samples.
        batch_size: images a batch.
        num_workers: processes; 0 loads in this one.
        sampler: the order of training, or the part of an evaluation; all samples in order where absent.
        bad_images: what is done about images that cannot be read; they are refused where absent.
        timeout: seconds in which a batch must come from the workers.

    Raises:
        ConfigError: impossible numbers.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"batch_size is {batch_size} and num_workers {num_workers}; they must be at least 1 and 0")
    if sampler is None:
        sampler = ShardSampler(len(dataset))  # type: ignore[arg-type]
    return ImageLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=Collate(collate, bad_images or BadImages("refuse")),
        timeout=timeout if num_workers > 0 else 0,
        # of its own, since a loader seeds its workers at each pass: torch's global numbers stay those of the training
        generator=torch.Generator().manual_seed(sampler.seed if isinstance(sampler, SeededSampler) else 0),
    )
