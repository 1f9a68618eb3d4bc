"""Which images are held out for validation where nobody has said so: the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ConfigError, DataError

T = TypeVar("T")


def check_fraction(val_fraction: float) -> None:
    """Refuse a part that is none.

    Raises:
        ConfigError: it is not in (0, 1].
    """
    if not 0.0 < val_fraction <= 1.0:
        raise ConfigError(f"val_fraction is {val_fraction}, but must be in (0, 1]")


def hold_out(classes: Mapping[str, Sequence[T]], val_fraction: float, seed: int, where: str) -> dict[str, set[T]]:
    """Choose the same part of each class, at least one image; a class keeps its part when others come or go.

    Args:
        classes: the images of each class, without repetitions.
        val_fraction: the part; with 1 all of them.
        seed: of the choice.
        where: the data, for messages.

    Returns:
        Those held out of each class.

    Raises:
        ConfigError: no such part.
        DataError: a class has one image only, so that it would be missing on one side.
    """
    check_fraction(val_fraction)
    lone = [name for name, images in classes.items() if len(images) < 2]
    if lone and val_fraction < 1.0:
        raise DataError(
            f"{where}: {', '.join(lone[:8])}{', ...' if len(lone) > 8 else ''} holds 1 image, but needs one for "
            "training and one for validation"
        )
    held_out = {}
    for name, images in classes.items():
        count = len(images) if val_fraction == 1.0 else min(max(1, round(len(images) * val_fraction)), len(images) - 1)
        held_out[name] = set(random.Random(f"{seed}/{name}").sample(list(images), count))
    return held_out


def iterative_stratification(labels: NDArray[np.float32], val_fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose a part of multi-label data in which every class keeps its share.

    The algorithm of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (ECML PKDD 2011):
    the images of the class with the fewest of them left are dealt out first, each to the side that still lacks most
    of that class.

    Args:
        labels: ``[N, C]`` of 0 and 1.
        val_fraction: the part; with 1 all of them.
        seed: of the choice.

    Returns:
        bool ``[N]``: which are held out.

    Raises:
        ConfigError: no such part.
    """
    check_fraction(val_fraction)
    count = len(labels)
    if val_fraction == 1.0:
        return np.ones(count, dtype=np.bool_)
    generator = np.random.default_rng(seed)
    positive = labels > 0
    part = np.array([1.0 - val_fraction, val_fraction])
    wanted = part * count  # images that each side still lacks
    wanted_of = part[:, None] * positive.sum(axis=0)  # and of each class
    side = np.full(count, -1)
    order = generator.permutation(count)
    left = positive.sum(axis=0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, count + 1)))
        for index in order[positive[order, rarest] & (side[order] < 0)]:
            lack = wanted_of[:, rarest]
            candidates = np.flatnonzero(np.isclose(lack, lack.max()))
            if len(candidates) > 1:
                candidates = candidates[np.isclose(wanted[candidates], wanted[candidates].max())]
            chosen = int(generator.choice(candidates))
            side[index] = chosen
            wanted[chosen] -= 1
            wanted_of[chosen, positive[index]] -= 1
        left = positive[side < 0].sum(axis=0)
    without_class = order[side[order] < 0]
    held_out = int(np.clip(round(wanted[1]), 0, len(without_class)))
    side[without_class] = 0
    side[without_class[:held_out]] = 1
    held: NDArray[np.bool_] = side == 1
    return held
