"""Every architecture in every format, precision and input mode: ``python -m autotimm.benchmarks.matrix``.

Six small models (:mod:`autotimm.benchmarks.matrix_models`) are trained on generated pictures, exported in each
combination and verified against their checkpoints through the runtime; engines are built, and verified where there is a
device to run them. ``--models`` keeps the checkpoints for the next time. Exits 1 if a cell failed that was expected to
work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console

from autotimm.benchmarks.matrix_models import MODELS, draw_objects, file_name, trained
from autotimm.export import export_to_onnx, export_to_tensorrt, export_to_torchscript
from autotimm.runtime.environment import installed_version
from autotimm.runtime.errors import AutoTimmError, BackendUnavailableError, ConfigError, one_line
from autotimm.runtime.manifest import Manifest, Precision

Format = Literal["onnx", "torchscript", "tensorrt"]
FORMATS: Mapping[Format, str] = {"onnx": "ONNX", "torchscript": "TorchScript", "tensorrt": "TensorRT"}
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUTS: Mapping[str, dict[str, Any]] = {
    "batch 1": {},
    "batch dynamic": {"batch": "dynamic"},
    "image": {"input": "image"},
}
NOT_OFFERED: frozenset[tuple[Format, Precision]] = frozenset({("torchscript", "int8")})
"""What a format does not have; an export that is refused anywhere else has failed."""
SHOWN = {
    "probability": "probability {:.1e}",
    "label_errors": "labels {:.2g}",
    "box_px": "box {:.2g} px",
    "score": "score {:.1e}",
    "unmatched_share": "unmatched {:.2g}",
    "mask_probability": "mask {:.1e}",
    "pixel_share": "pixels {:.1e}",
}
"""What of a verification the table shows, and how."""


@dataclass(frozen=True)
class Cell:
    """One combination."""

    model: str
    format: Format
    precision: Precision
    input: str
    status: Literal["verified", "built", "not offered", "failed"]
    seconds: float
    reason: str = ""
    """Why it is not there, or was not executed."""
    megabytes: float = 0.0
    worst: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.status in ("not offered", "failed"):
            return f"{self.status}: {self.reason}"
        return self.in_brief

    @property
    def in_brief(self) -> str:
        """Without the reason."""
        if self.status in ("not offered", "failed"):
            return self.status
        worst = ", ".join(text.format(self.worst[name]) for name, text in SHOWN.items() if name in self.worst)
        return f"{self.status}, {self.megabytes:.1f} MB, {self.seconds:.0f} s" + (f"; {worst}" if worst else "")


class Exports:
    """The exports of one model into an empty folder."""

    def __init__(self, checkpoint: Path, data: Path, folder: Path) -> None:
        self._checkpoint, self._folder = checkpoint, folder
        self._calibration = data / "images" / "train"

    def export(self, form: Format, precision: Precision, mode: str) -> tuple[Manifest, Path]:
        """One artifact and what it says about itself; an engine from the portable ONNX artifact of its precision."""
        options: dict[str, Any] = {"precision": precision, **INPUTS[mode]}
        if precision == "int8":
            options["calibration"] = self._calibration
        name = f"{precision}-{mode.replace(' ', '-')}"
        if form == "onnx":
            path = self._folder / f"{name}.onnx"
            return export_to_onnx(self._checkpoint, path, **options), path
        if form == "torchscript":
            path = self._folder / f"{name}.pt"
            return export_to_torchscript(self._checkpoint, path, **options), path
        portable, path = self._folder / f"{name}-portable.onnx", self._folder / f"{name}.engine"
        export_to_onnx(self._checkpoint, portable, target="portable", **options)
        return export_to_tensorrt(portable, path), path


def fill(exports: Exports, model: str, form: Format, precision: Precision, mode: str) -> Cell:
    """Export one combination; what goes wrong is the content of the cell."""
    start = time.perf_counter()
    where: dict[str, Any] = {"model": model, "format": form, "precision": precision, "input": mode}
    try:
        manifest, path = exports.export(form, precision, mode)
    except AutoTimmError as error:
        refused = isinstance(error, ConfigError) and (form, precision) in NOT_OFFERED
        absent = isinstance(error, BackendUnavailableError)
        status: Literal["not offered", "failed"] = "not offered" if refused or absent else "failed"
        return Cell(**where, status=status, reason=str(error), seconds=time.perf_counter() - start)
    except Exception as error:  # of an exporter: the table is to say so, and go on
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        return Cell(**where, status="failed", reason=reason, seconds=time.perf_counter() - start)
    record = manifest.verification
    return Cell(
        **where,
        status="verified" if record.status == "passed" else "built",
        seconds=time.perf_counter() - start,
        reason="" if record.status == "passed" else record.reason.partition(";")[0],
        megabytes=path.stat().st_size / 1e6,
        worst=record.worst,
    )


def walk(
    names: Sequence[str], formats: Sequence[Format], precisions: Sequence[Precision], models: Path
) -> Iterator[Cell]:
    """Cell by cell, model by model.

    Args:
        names: of :data:`autotimm.benchmarks.matrix_models.MODELS`.
        formats: the columns.
        precisions: a part of the rows.
        models: the folder of the pictures and the checkpoints; what is not there yet is made.
    """
    data = models / "data"
    if not data.is_dir():
        draw_objects(data)
    for name in names:
        checkpoint = trained(name, data, models)
        with tempfile.TemporaryDirectory() as folder:
            exports = Exports(checkpoint, data, Path(folder))
            for precision in precisions:
                for mode in INPUTS:
                    for form in formats:
                        yield fill(exports, name, form, precision, mode)


def as_markdown(cells: Sequence[Cell], formats: Sequence[Format]) -> str:
    """A table for each model, then why cells are empty or were not executed, and the versions."""
    reasons = {reason: number for number, reason in enumerate(dict.fromkeys(c.reason for c in cells if c.reason), 1)}
    lines: list[str] = []
    for name in dict.fromkeys(cell.model for cell in cells):
        lines += [f"### {name}", "", f"| precision | input | {' | '.join(FORMATS[form] for form in formats)} |"]
        lines.append(f"|{' --- |' * (2 + len(formats))}")
        own = {(cell.precision, cell.input, cell.format): cell for cell in cells if cell.model == name}
        for precision, mode in dict.fromkeys((cell.precision, cell.input) for cell in cells if cell.model == name):
            row = [_noted(own[precision, mode, form], reasons) for form in formats]
            lines.append(f"| {precision} | {mode} | {' | '.join(row)} |")
        lines.append("")
    lines += [*(f"({number}) {reason}" + "\n" for reason, number in reasons.items())]
    packages = ("torch", "timm", "onnx", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13")
    versions = [f"{package} {version}" for package in packages if (version := installed_version(package))]
    count = {status: sum(cell.status == status for cell in cells) for status in ("verified", "built", "not offered")}
    counted = ", ".join(f"{number} {status}" for status, number in count.items())
    failed = sum(cell.status == "failed" for cell in cells)
    lines.append(
        f"{len(cells)} cells in {sum(cell.seconds for cell in cells):.0f} seconds: {counted}, {failed} failed. "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )
    return "\n".join(lines) + "\n"


def _noted(cell: Cell, reasons: Mapping[str, int]) -> str:
    """A cell with the number of its reason."""
    return cell.in_brief + (f" ({reasons[cell.reason]})" if cell.reason else "")


def main() -> None:
    """Fill the matrix, show it, and exit: with 1 if a cell failed."""
    parser = argparse.ArgumentParser(description="Export every architecture in every combination, and verify each.")
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of: {', '.join(map(file_name, MODELS))} (all)")
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="may be given several times (all)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="may be given several times (all)")
    parser.add_argument("--models", type=Path, metavar="DIR", help="where the trained models are kept")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every cell to this file")
    arguments = parser.parse_args()
    known = {file_name(name): name for name in MODELS}
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"no model is called {', '.join(unknown)}: {', '.join(known)}")
    names = [known[name] for name in arguments.names or known]
    formats: list[Format] = arguments.format or list(FORMATS)
    console = Console(highlight=False, markup=False, width=200)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as fresh:
        models = arguments.models or Path(fresh)
        for cell in walk(names, formats, arguments.precision or PRECISIONS, models):
            cells.append(cell)
            console.print(f"{cell.model}, {FORMATS[cell.format]}, {cell.precision}, {cell.input}: {cell}")
    table = as_markdown(cells, formats)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table, encoding="utf-8")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1), encoding="utf-8")
    console.print(table, soft_wrap=True)
    sys.exit(any(cell.status == "failed" for cell in cells))


if __name__ == "__main__":
    main()
