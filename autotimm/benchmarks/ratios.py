"""Ratios of two inference engines on a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from autotimm.benchmarks.timing import clock, warm_up

Opener = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Opens an engine and gives the call to be timed."""


def medians(openers: Mapping[str, Opener], *, rounds: int, runs: int) -> dict[str, list[float]]:
    """Median milliseconds of each engine in each of several rounds.

    One engine at a time exists: the threads of an idle ONNX Runtime session go on spinning and slow its neighbour. The
    engines take turns, so that a machine whose speed drifts does not bend their ratios.
    """
    found: dict[str, list[float]] = {name: [] for name in openers}
    for _ in range(rounds):
        for name, opener in openers.items():
            with opener() as call:
                warm_up(call)
                found[name].append(1000.0 * statistics.median(clock(call) for _ in range(runs)))
            time.sleep(0.2)  # let the last threads of the closed session stop
    return found


def ratio(values: list[float], base: list[float]) -> float:
    """The median of the ratios taken round by round."""
    return statistics.median(value / reference for value, reference in zip(values, base, strict=True))


@contextmanager
def bare_session(model: bytes, feed: dict[str, NDArray[Any]]) -> Iterator[Callable[[], object]]:
    """An ONNX Runtime session with its own defaults, on a prepared input."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    yield lambda: session.run(None, feed)


def picture_for(height: int, width: int) -> NDArray[np.uint8]:
    """A decoded image to predict on."""
    from autotimm.runtime.pictures import generate

    return generate(height, width, seed=1)
