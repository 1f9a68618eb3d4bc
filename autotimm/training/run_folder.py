"""One folder for each training, never the same one twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from autotimm.runtime.errors import ConfigError


class RunFolder(Callback):
    """Make the folder of a run once its data has proved usable, and send the log and the checkpoints there.

    Args:
        root: where runs are kept.
        name: of the run.
        checkpoints: the callback that writes to ``checkpoints/``, if any.
        csv: whether to log to ``metrics.csv``.
    """

    def __init__(self, root: str | Path, name: str, checkpoints: ModelCheckpoint | None, csv: bool) -> None:
        self.root, self.name, self.checkpoints, self.csv = root, name, checkpoints, csv
        self.folder: Path | None = None
        """The folder that this process has made."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook; the data module has been set up before it, and the checkpoint callback will be after it."""
        # the other processes of a distributed run write nothing, and hear of the folder from this one
        if stage != "fit" or not trainer.is_global_zero or not (self.csv or self.checkpoints):
            return
        folder = self.folder = claim_run_folder(self.root, self.name)
        if self.checkpoints is not None:
            self.checkpoints.dirpath = str(folder / "checkpoints")
        if self.csv:
            trainer.loggers = [CSVLogger(folder, name="", version="")]

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning's hook: a run that failed before its first step leaves no folder."""
        if self.folder is not None and trainer.global_step == 0:
            if self.csv:
                trainer.loggers = []  # it would write once more
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
