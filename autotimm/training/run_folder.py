"""One folder for each training, never the same one twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from autotimm.runtime.errors import ConfigError
from autotimm.training.loggers import LoggerConfig, build_loggers


class RunFolder(Callback):
    """Make the folder of a run once its data has proved usable, and send the logs and the checkpoints there.

    Args:
        root: where runs are kept.
        name: of the run.
        checkpoints: the callback that writes to ``checkpoints/``, if any.
        loggers: what is logged to; they write below the folder.
    """

    def __init__(
        self, root: str | Path, name: str, checkpoints: ModelCheckpoint | None, loggers: Sequence[LoggerConfig]
    ) -> None:
        self.root, self.name, self.checkpoints, self.loggers = root, name, checkpoints, tuple(loggers)
        self.folder: Path | None = None
        """Where this run is kept, once it is made."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook; the data module has been set up before it, and the checkpoint callback will be after it."""
        if stage != "fit" or not (self.loggers or self.checkpoints):
            return
        claimed = claim_run_folder(self.root, self.name) if trainer.is_global_zero else None
        folder = self.folder = trainer.strategy.broadcast(claimed)  # the other processes of a run hear of it
        assert folder is not None
        if self.checkpoints is not None:
            self.checkpoints.dirpath = str(folder / "checkpoints")
        if self.loggers:
            trainer.loggers = build_loggers(self.loggers, folder)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook: a run that failed before its first checkpoint leaves no folder."""
        interrupted = isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0  # a checkpoint is to come
        if self.folder is not None and not interrupted and not any(self.folder.glob("checkpoints/*.ckpt")):
            if self.loggers:
                trainer.loggers = []  # they would write once more
            if trainer.is_global_zero:
                shutil.rmtree(self.folder, ignore_errors=True)


def claim_run_folder(root: str | Path, name: str) -> Path:
    """Make ``root/name``, or ``root/name-2``, ``-3`` and so on where earlier runs have the name.

    Two trainings that start at the same moment get two folders.

    Returns:
        The new, empty folder, as an absolute path.

    Raises:
        ConfigError: the folder cannot be made.
    """
    parent = Path(root).resolve()
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if not parent.is_dir():
                raise ConfigError(f"{parent}: is a file; give another default_root_dir for runs") from None
            number += 1
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made for this run: {error.strerror or error}") from error
        else:
            return folder
