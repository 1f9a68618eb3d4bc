"""``autotimm train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from autotimm.cli.console import err, out

if TYPE_CHECKING:
    from autotimm.training.summary import TrainingSummary


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG.yaml]", help="What to train, on what, and how.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting: model.lr=1e-3.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="Go on from this checkpoint, exactly as if never stopped.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Print a configuration to start from, and train nothing: classification, probe, multilabel, "
            "detection (official YOLOX, a few epochs), yolox (the same with its whole recipe), detector (any "
            "backbone), segmentation, instances. For example: autotimm train --init probe > config.yaml",
        ),
    ] = None,
) -> None:
    """Train a model from a configuration file; the best and the last checkpoint are kept."""
    if init is not None:
        if config is not None or set_ or resume is not None:
            raise typer.BadParameter("--init prints a configuration and takes nothing else")
        from autotimm.training.templates import read_template

        typer.echo(read_template(init), nl=False)
        return
    if config is None:
        raise typer.BadParameter(
            "name a configuration file; autotimm train --init classification > config.yaml makes one",
            param_hint="CONFIG.yaml",
        )
    from autotimm.training.config import load_config, run_training

    summary = run_training(load_config(config, set_ or []), resume=resume)
    if summary is None:  # a trial run, or one of the other processes of a distributed training
        return
    for name, value in _told(summary).items():
        out.print(Text.assemble((f"{name + ':':<17}", "bold"), value))  # a path stays one line, to be copied
    err.print(f"next: {summary.next_command}")


def _told(summary: TrainingSummary) -> dict[str, str]:
    minutes, seconds = divmod(round(summary.seconds), 60)
    told = {"trained": f"{summary.epochs} epochs, {minutes} min {seconds} s"}
    if summary.best_score is not None:
        told["best"] = f"{summary.monitor} {summary.best_score:.4f} in epoch {summary.best_epoch}"
    told |= {"best checkpoint": str(summary.best_checkpoint), "last checkpoint": str(summary.last_checkpoint)}
    return told | ({"log": str(summary.log)} if summary.log is not None else {})
