"""Timing on noisy machines: warm-up until stable, percentiles, and ratios taken side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Percentiles of repeated runs, in milliseconds."""

    p50: float
    p90: float
    p99: float
    runs: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Timing:
        """Percentiles of durations in seconds."""
        values = 1000.0 * np.asarray(list(seconds))
        p50, p90, p99 = (round(float(np.percentile(values, q)), 4) for q in (50, 90, 99))
        return cls(p50, p90, p99, len(values))

    def to_dict(self) -> dict[str, float]:
        """Plain JSON types."""
        return asdict(self)


def clock(call: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Stopwatch:
    """Milliseconds since the start of its ``with`` block."""

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to release."""

    def lap(self) -> float:
        """Milliseconds so far."""
        return 1000.0 * (time.perf_counter() - self._start)


def warm_up(call: Callable[[], object], *, window: int = 5, limit: int = 60, tolerance: float = 0.05) -> int:
    """Call until the median of one window of runs lies within ``tolerance`` of the window before it.

    Returns:
        How many calls it took; ``limit`` where the machine never became quiet.
    """
    before: float | None = None
    for done in range(window, limit + 1, window):
        now = statistics.median(clock(call) for _ in range(window))
        if before is not None and abs(now - before) <= tolerance * before:
            return done
        before = now
    return limit
