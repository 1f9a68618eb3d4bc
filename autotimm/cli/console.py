"""Where the command line writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from autotimm.runtime.errors import AutoTimmError

# No markup: file names, class names and shapes hold brackets. No wrapping: a line that is piped or copied stays one.
out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """A table on standard output: as wide as the terminal, or as its longest lines where that is none."""
    if out.is_terminal:
        out.print(table)
        return
    width = Measurement.get(out, out.options.update(max_width=_UNLIMITED), table).maximum
    Console(file=out.file, highlight=False, markup=False, width=width).print(table)


_UNLIMITED = 100_000


def complain(message: str) -> None:
    """One readable error on standard error."""
    err.print(Text.assemble(("error:", "bold red"), " ", message))


def warn(message: str) -> None:
    """One warning on standard error."""
    err.print(Text.assemble(("warning:", "bold yellow"), " ", message))


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of Python's own way of showing a warning, which tells of lines of code."""
    warn(" ".join(str(message).split()))


def write_json(content: Any, path: Path) -> None:
    """Write JSON to a file, or to standard output where the path is ``-``; nothing else goes there then.

    Raises:
        AutoTimmError: a number in it is not finite, or the file cannot be written.
    """
    from autotimm.runtime.files import replacing

    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise AutoTimmError(
            "the results hold a number that is infinite or not a number (NaN), which JSON cannot say; "
            "nothing was written"
        ) from error
    if str(path) == "-":
        sys.stdout.write(text + "\n")
        return
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner for work whose length is not known; silent where standard error is not a terminal."""
    with err.status(Text(f"{what} ...")):
        yield


def progress_bar() -> Progress:
    """A progress bar on standard error; silent where that is not a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
