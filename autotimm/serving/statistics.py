"""What one model has done so far, in the terms of Triton's statistics extension."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Duration:
    """How often something happened, and for how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """``count`` more, which took ``ns`` altogether."""
        self.count += count
        self.ns += ns


STAGES = ("compute_input", "compute_infer", "compute_output")
"""Decoding and resizing, or reading the tensors; the engine; results in source pixels and their encoding."""


@dataclass
class ModelStatistics:
    """Counters of one model; every method may be called from any thread."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    stages: dict[str, Duration] = field(default_factory=lambda: {name: Duration() for name in STAGES})
    images: int = 0
    """Images predicted."""
    batches: dict[int, dict[str, Duration]] = field(default_factory=dict)
    """Of the runs of the engine by their number of images: the stages."""
    last_ms: int = 0
    """When the last run ended, in milliseconds since 1970."""
    reloads: dict[str, int] = field(default_factory=lambda: {"done": 0, "refused": 0})
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ran(self, images: int, queued: list[int], stages: dict[str, int]) -> None:
        """One run of the engine.

        Args:
            images: in it.
            queued: nanoseconds that each of its requests had waited.
            stages: nanoseconds of each of :data:`STAGES`.
        """
        with self._lock:
            self.images += images
            self.last_ms = time.time_ns() // 1_000_000
            self.queue.add(sum(queued), len(queued))
            batch = self.batches.setdefault(images, {name: Duration() for name in STAGES})
            for name, ns in stages.items():
                self.stages[name].add(ns, len(queued))
                batch[name].add(ns)

    def answered(self, ns: int, *, well: bool) -> None:
        """One request, that took ``ns`` from its arrival in the queue."""
        with self._lock:
            (self.success if well else self.fail).add(ns)

    def reloaded(self, *, well: bool) -> None:
        """One attempt to load another file."""
        with self._lock:
            self.reloads["done" if well else "refused"] += 1

    @property
    def runs(self) -> int:
        """How often the engine ran."""
        return sum(stages["compute_infer"].count for stages in list(self.batches.values()))
