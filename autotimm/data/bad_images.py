"""Images that cannot be read: named and refused, or named and passed over."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, get_args

from torch.utils.data import Dataset

from autotimm.data.samplers import SampleKey
from autotimm.runtime.errors import AutoTimmError, ConfigError, DataError, DataWarning, ImageError

BadImagePolicy = Literal["refuse", "skip"]
_REMEDY = "mend or remove it, or give the data bad_images='skip'"


class PassedOver(NamedTuple):
    """What is there in place of images that cannot be read."""

    sample: Any
    """The sample that stands in for them; None where they are left out."""
    bad: tuple[str, ...]
    """What is wrong with each of them."""


class BadImages:
    """What is done about bad images, and those that were met; it stays in the main process.

    Args:
        policy: ``refuse`` stops at the first; ``skip`` passes over them with a warning each.

    Raises:
        ConfigError: no such policy.
    """

    def __init__(self, policy: str) -> None:
        for known in get_args(BadImagePolicy):
            if policy == known:
                self.policy: BadImagePolicy = known
                break
        else:
            raise ConfigError.unknown("treatment of bad images (bad_images)", policy, get_args(BadImagePolicy))
        self.seen: dict[str, None] = {}
        """What is wrong with each, in the order in which they were met."""

    def report(self, message: str) -> None:
        """Warn of an image, the first time it is met."""
        if message not in self.seen:
            self.seen[message] = None
            warnings.warn(f"passed over a {message} ({len(self.seen)} so far)", DataWarning, stacklevel=3)


class TrainingSamples(Dataset[Any], ABC):
    """Samples by ``(index, seed)``; an :class:`AutoTimmError` as a value where there is none.

    With ``skip`` the next readable image stands in for a bad one, with the seed that that one would have had. Where
    batches have settings (:data:`~autotimm.data.samplers.BatchPlan`), :meth:`load` takes them as a third argument.
    """

    def __init__(self, policy: BadImagePolicy) -> None:
        self.policy = policy

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int, seed: int) -> Any:
        """One augmented sample; as :class:`PassedOver` where it is made without some bad images.

        Raises:
            ImageError: the image cannot be decoded.
            DataError: it does not fit its annotations.
            ConfigError: what was asked for cannot be done with it.
        """

    def __getitem__(self, key: SampleKey | int) -> Any:
        # a bare index where Lightning puts its own sampler in place, for overfit_batches
        index, seed, *setting = key if isinstance(key, tuple) else (key, key)
        bad: list[str] = []
        for step in range(len(self)):
            try:
                sample = self.load((index + step) % len(self), seed, *setting)
            except (ImageError, DataError) as error:
                bad.append(f"training image {error}")
                if self.policy == "refuse":
                    return DataError(f"{bad[0]}; {_REMEDY}")
            except AutoTimmError as error:
                return error
            else:
                if isinstance(sample, PassedOver):
                    sample, bad = sample.sample, [*bad, *sample.bad]
                return PassedOver(sample, tuple(bad)) if bad else sample
        return DataError(f"none of the {len(self)} images to train on can be read; the first is the {bad[0]}")


class EvaluationSamples(Dataset[Any], ABC):
    """Samples by index; an :class:`AutoTimmError` as a value where there is none. With ``skip`` bad ones are left out.

    Args:
        policy: what is done about bad images.
        stage: ``validation`` or ``test``, for messages.
    """

    def __init__(self, policy: BadImagePolicy, stage: str) -> None:
        self.policy, self.stage = policy, stage

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, index: int) -> Any:
        """One sample as the runtime would see it.

        Raises:
            ImageError: the image cannot be decoded.
            DataError: it does not fit its annotations.
        """

    def __getitem__(self, index: int) -> Any:
        try:
            return self.load(index)
        except (ImageError, DataError) as error:
            message = f"{self.stage} image {error}"
            return DataError(f"{message}; {_REMEDY}") if self.policy == "refuse" else PassedOver(None, (message,))
