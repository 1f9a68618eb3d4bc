"""Options that several commands share, and opening whatever a user calls a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotimm.runtime.errors import ArtifactError

if TYPE_CHECKING:
    from autotimm.runtime import Predictor

CHECKPOINT_SUFFIXES = (".ckpt", ".pth")

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An artifact (.onnx, .pt, .engine) or a checkpoint (.ckpt, .pth).")
]
Provider = Annotated[
    str | None,
    typer.Option(help="Where it runs: cpu (the default), cuda (engines always); with ONNX Runtime also openvino, ..."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the engine; the engine's own choice if absent.")
]
JsonOut = Annotated[
    Path | None, typer.Option("--json", metavar="OUT", help="Write JSON to this file; - is standard output.")
]


def open_predictor(path: Path, provider: str | None, threads: int | None) -> Predictor:
    """A predictor on an artifact, or, where torch is installed, on a checkpoint."""
    from autotimm.runtime import is_artifact, load
    from autotimm.runtime.artifact import SUFFIXES

    if is_artifact(path):
        return load(path, provider=provider, threads=threads)
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES:
        raise ArtifactError(
            f"{path}: neither an artifact ({', '.join(SUFFIXES)}) nor a checkpoint "
            f"({', '.join(CHECKPOINT_SUFFIXES)}) by its name"
        )
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    if provider not in (None, "cpu"):
        raise ArtifactError(f"{path}: a checkpoint runs on the CPU here; export it to use --provider {provider}")
    from autotimm.models import load_checkpoint
    from autotimm.models.torch_backend import predictor_of

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return predictor_of(load_checkpoint(path))
