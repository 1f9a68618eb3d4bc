"""``autotimm export --format triton-repo``: an artifact into a model repository of Triton."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autotimm.cli.console import err, out

_PANEL = "Triton"
ModelName = Annotated[
    str | None, typer.Option(rich_help_panel=_PANEL, help="Name of the model; else that of the artifact.")
]
ModelVersion = Annotated[
    int | None, typer.Option(min=1, metavar="N", rich_help_panel=_PANEL, help="Version of the model; 1 if absent.")
]
MaxBatch = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, rich_help_panel=_PANEL, help="Requests that Triton may run at once, if the batch is free."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", rich_help_panel=_PANEL, help="Replace a model of this name, with all its versions.")
]


def of_model_given(name: str | None, version: int | None, max_batch: int | None, *, force: bool) -> dict[str, Any]:
    """The options of this module that were given."""
    options = {"name": name, "version": version, "max_batch": max_batch, "force": force or None}
    return {key: value for key, value in options.items() if value is not None}


def repository(
    artifact: Path,
    folder: Path | None,
    foreign: Mapping[str, Any],
    calibrated: Mapping[str, Any],
    checking: Mapping[str, Any],
    of_model: Mapping[str, Any],
) -> None:
    """Write the model, and say what to do with it.

    Args:
        artifact: ``.onnx``, ``.engine`` or ``.plan``.
        folder: the repository, where one was named.
        foreign: options of other formats that were given.
        calibrated: options of the calibration.
        checking: ``verify`` and ``verify_images``.
        of_model: what :func:`of_model_given` gives.

    Raises:
        typer.BadParameter: an option that does not fit.
    """
    unfit = ["--" + name.replace("_", "-") for name in foreign]
    unfit += ["--calibration" for value in calibrated.values() if value is not None][:1]
    unfit += [] if checking["verify"] else ["--no-verify"]
    unfit += ["--verify-images"] if checking["verify_images"] is not None else []
    if unfit:
        raise typer.BadParameter(
            f"{', '.join(unfit)}: {artifact.name} is laid out for Triton as it is; give that to its own export"
        )
    if folder is None:
        raise typer.BadParameter("name the model repository with -o", param_hint="--output")
    from autotimm.export.triton import write_repository

    model = write_repository(artifact, folder, **of_model)
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        out.print(str(path))
    err.print(f"next: tritonserver --model-repository {shlex.quote(str(folder.resolve()))}")
    err.print(f"  or: autotimm serve {shlex.quote(str(folder))}")
