"""The application: its commands, and how failures reach the user."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Annotated

import typer

from autotimm.cli import building, evaluating, exporting, inspecting, measuring, predicting, serving, training
from autotimm.cli.console import complain, show_warning
from autotimm.runtime.errors import AutoTimmError, BackendUnavailableError
from autotimm.version import __version__

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="autotimm",
    help="Train a vision model, export it once, run the same artifact everywhere, and prove that it is the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("train")(training.train)
app.command("evaluate")(evaluating.evaluate)
app.command("export")(exporting.export)
app.command("build")(building.build)
app.command("verify")(exporting.verify)
app.command("predict")(predicting.predict)
app.command("serve")(serving.serve)
app.command("benchmark")(measuring.benchmark)
app.command("inspect")(inspecting.inspect)
app.command("backbones")(inspecting.backbones)
app.command("doctor")(inspecting.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autotimm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 a failure the user can mend, 2 wrong usage, 130 interrupted."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # accepted anywhere on the line
    warnings.showwarning = show_warning
    try:
        app(args=arguments, prog_name="autotimm")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer's own answer to Ctrl-C, which says nothing
            complain(_interruption(stop))
        raise
    except Exception as error:
        if debug:
            raise
        complain(_message(error))
        sys.exit(1)


def _interruption(stop: SystemExit) -> str:
    """What the interrupted work had to say."""
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return str(cause or "") or "interrupted"


def _message(error: Exception) -> str:
    """One readable message."""
    if isinstance(error, ModuleNotFoundError):
        with contextlib.suppress(ModuleNotFoundError):
            error = BackendUnavailableError.from_import_error(error, "this command")
    if isinstance(error, AutoTimmError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file could not be read or written'}: {error.strerror}"
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text[:400]} (--debug shows the traceback; please report it)"
