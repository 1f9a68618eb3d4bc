"""Following a build and stopping it: TensorRT reports nested phases of a known number of steps each (10 and later)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ReportProgress = Callable[[str, float], None]
"""Takes what is being done, in words, and the share of the build that is done, 0 to 1."""

_IN_WORDS = (
    ("timing", "timing kernels"),
    ("profil", "timing kernels"),
    ("tactic", "choosing kernels"),
    ("reformat", "choosing layouts"),
    ("compil", "compiling kernels"),
    ("optimiz", "optimising the graph"),
    ("prepar", "optimising the graph"),
    ("clon", "reading the graph"),
    ("serializ", "writing the plan"),
    ("engine", "generating the engine"),
)


def phase_in_words(name: str) -> str:
    """What a phase of the builder does."""
    lowered = name.lower()
    return next((words for sign, words in _IN_WORDS if sign in lowered), lowered)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Adds up the phases, and answers whether to go on. Called from threads of the builder."""

    def __init__(self, report: ReportProgress | None) -> None:
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._share = 0.0
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(1, steps))
        self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """A step is done; ``False`` tells the builder to stop."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
        self._tell(name)
        return not self.cancelled.is_set()

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)

    def _tell(self, name: str) -> None:
        if self._report is None:
            return
        with self._lock:
            self._share = max(
                self._share, min(1.0, self._share_of(name))
            )  # phases may come again; a bar does not go back
            share = self._share
        self._report(phase_in_words(name), share)

    def _share_of(self, name: str) -> float:
        """Of the whole build: what is done of a phase counts as a part of one step of the phase around it."""
        share: float = 0.0
        current: str | None = name
        while current in self._phases:
            phase = self._phases[current]
            share = (phase.done + (share if phase.done < phase.steps else 0.0)) / phase.steps
            current = phase.parent
        return share


def monitor_of(module: Any, progress: BuildProgress) -> Any | None:
    """An ``IProgressMonitor`` that passes everything on; ``None`` where this version has none (8.6)."""
    base = getattr(module, "IProgressMonitor", None)
    if base is None:
        return None

    class Monitor(base):  # type: ignore[misc, valid-type]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
