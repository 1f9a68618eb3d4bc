"""``autotimm train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from autotimm.cli.console import err, out


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting: model.lr=1e-3.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="CKPT", help="Go on from this checkpoint.")] = None,
) -> None:
    """Train a model from a configuration file; the best and the last checkpoint are kept."""
    from autotimm.training.config import load_config, run_training

    best = run_training(load_config(config, set_ or []), resume=resume)
    out.print(Text.assemble("best checkpoint: ", (str(best), "bold")))
    err.print(f"next: autotimm export {best} --format onnx -o model.onnx")
