"""What must hold of a checkpoint before a training goes on from it."""

from __future__ import annotations

from pathlib import Path

from autotimm.models.checkpoint import read_checkpoint
from autotimm.runtime.errors import CheckpointError, ConfigError
from autotimm.training.ema import averages_weights


def check_resumable(path: Path, max_epochs: int | None, averages: bool) -> None:
    """Refuse a checkpoint that a training cannot go on from as if it had never stopped.

    Args:
        path: of the checkpoint.
        max_epochs: how long the training is to be; ``None`` or -1 has no end.
        averages: whether the training averages its weights.

    Raises:
        CheckpointError: there is none, or not one of a training.
        ConfigError: it has done all its epochs, or has (no) averaged weights where the training has none (some).
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint to go on from")
    content = read_checkpoint(path)
    if "loops" not in content:
        raise CheckpointError(
            f"{path}: is not a checkpoint of a training, so there is nothing to go on from; to start from "
            "its weights, give them as weights (--set weights=FILE) or pretrained"
        )
    done = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    if max_epochs is not None and 0 <= max_epochs <= done:
        raise ConfigError(
            f"{path}: has done {done} epochs, and max_epochs is {max_epochs}: there is nothing left to "
            "train; raise trainer.max_epochs"
        )
    if averages_weights(content) and not averages:
        raise ConfigError(f"{path}: is of a training with averaged weights: give the ema_decay that it had")
    if averages and not averages_weights(content):
        raise ConfigError(f"{path}: is of a training without averaged weights: leave ema_decay out to go on from it")
