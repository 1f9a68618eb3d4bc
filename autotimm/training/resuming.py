"""What must hold of a checkpoint before a training goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotimm.models.checkpoint import read_checkpoint
from autotimm.models.record import CHECKPOINT_KEY, plain
from autotimm.runtime.errors import CheckpointError, ConfigError
from autotimm.training.ema import averages_weights

FREE = (
    *("pretrained", "class_names", "seed", "compile_model", "metrics"),
    *("threshold", "score_thresh", "nms_thresh", "max_detections_per_image"),
    *("multi_label_candidates", "class_agnostic_nms"),
)
"""Arguments of models that a resumed training may have otherwise: they do not change its steps."""


def check_resumable(path: Path, max_epochs: int | None, averages: bool) -> dict[str, Any]:
    """Refuse a checkpoint that a training cannot go on from as if it had never stopped.

    Args:
        path: of the checkpoint.
        max_epochs: how long the training is to be; ``None`` or -1 has no end.
        averages: whether the training averages its weights.

    Returns:
        The checkpoint.

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
        raise ConfigError(
            f"{path}: is of a training without averaged weights: go on from it with ema_decay=None (null)"
        )
    return content


def check_same_training(path: Path, content: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse to go on with another model or another recipe than a training began with.

    What is in the checkpoint would win silently (learning rate, schedule), or not fit.

    Args:
        path: of the checkpoint.
        content: the checkpoint.
        arguments: of the model that is to be trained.

    Raises:
        ConfigError: naming each difference.
    """
    record = content.get(CHECKPOINT_KEY)
    if not isinstance(record, Mapping):
        return  # not a model of this package; Lightning knows what to do
    began, now = (_of_the_recipe(each) for each in (record["arguments"], plain(dict(arguments))))
    changed = [f"{name} was {began[name]!r}, and is {now[name]!r}" for name in began if began[name] != now.get(name)]
    if changed:
        raise ConfigError(
            f"{path}: cannot be gone on from with another model or recipe: {'; '.join(changed)}. Restore these, or "
            "start a new training from its weights"
        )


def _of_the_recipe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that count; a backbone without where its weights came from."""
    kept = {name: value for name, value in arguments.items() if name not in FREE}
    if isinstance(kept.get("backbone"), Mapping):
        kept["backbone"] = {name: value for name, value in kept["backbone"].items() if name != "pretrained"}
    return kept


def adopt_tuned(content: Mapping[str, Any], model: Any, data: Any, processes: int) -> None:
    """Take over the learning rate and the batch size that a tuned training began with.

    Args:
        content: its checkpoint.
        model: whose ``lr`` is set.
        data: whose ``batch_size`` is set.
        processes: of the training.
    """
    model.lr = model.hparams["lr"] = content[CHECKPOINT_KEY]["arguments"]["lr"]
    loaders = content["loops"]["fit_loop"]["state_dict"].get("combined_loader", [])
    if len(loaders) == 1 and "global_batch" in loaders[0]:
        data.batch_size = loaders[0]["global_batch"] // processes
