"""Reading files that torch wrote, without running any code that they may carry."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from autotimm.runtime.errors import CheckpointError


def read_torch_file(path: str | Path) -> Any:
    """What a file of tensors and plain types holds, on the CPU.

    Raises:
        CheckpointError: missing, damaged, or holding other things than that.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors and plain data; it is foreign, damaged, or holds Python objects, "
            "which are not loaded for safety"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything at all
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise CheckpointError(
            f"{path}: not a readable checkpoint: the file is empty or damaged ({reason}); copy or download it again"
        ) from error
