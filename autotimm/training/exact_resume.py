"""What a resumed training needs beside Lightning's own state, to be the uninterrupted one step by step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import distributed

KEY = "autotimm_random_states"


class ExactResume(Callback):
    """Keep the random generators of each process in checkpoints, and put the loader back to its place in the epoch.

    Dropout, drop path, mixup and the like draw from the generators of torch, numpy and Python. The order and the
    augmentation of the data do not: they follow from the seed of the data module.
    """

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._loaders: list[dict[str, Any]] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook, called in every process."""
        state = random_state(pl_module.device)
        if trainer.world_size > 1 and distributed.is_initialized():
            states: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(states, state)
        else:
            states = [state]
        checkpoint[KEY] = states

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning's hook, where a training goes on from a checkpoint."""
        states = checkpoint.get(KEY)
        # with another number of processes nothing could be exact
        self._random = states[trainer.global_rank] if states and len(states) == trainer.world_size else None
        self._loaders = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook, after the validation by which it checks the model, which may draw numbers too."""
        if self._random is not None:
            restore_random_state(self._random, pl_module.device)
        # Lightning does this where it makes the loaders, but has no states yet where a schedule has asked for their
        # length before the checkpoint was restored
        loader: Any = trainer.train_dataloader
        if len(self._loaders) == 1 and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._loaders[0])
        self._random, self._loaders = None, []


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that a training draws from, in tensors and plain numbers."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002  # the global one is meant
    version, words, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, torch.tensor(words), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
