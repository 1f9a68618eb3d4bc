"""How a training ended, in few words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingSummary:
    """What there is after a training."""

    epochs: int
    """Epochs done, in all, those of a resumed run included."""
    seconds: float
    """Of this run."""
    monitor: str | None
    """The metric by which the best checkpoint was chosen."""
    best_epoch: int | None
    """Counted from 1."""
    best_score: float | None
    best_checkpoint: Path
    last_checkpoint: Path
    log: Path | None
    """The table of metrics, where one was written."""

    @property
    def next_command(self) -> str:
        """What to type now."""
        return f"autotimm export {shlex.quote(str(self.best_checkpoint))} --format onnx -o model.onnx"
