"""``autotimm inspect``, ``backbones`` and ``doctor``: what there is."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from autotimm.cli.building import engine_rows
from autotimm.cli.console import err, out, write_json
from autotimm.cli.exporting import print_verification
from autotimm.cli.options import JsonOut, ModelPath, open_predictor
from autotimm.runtime.errors import ConfigError

if TYPE_CHECKING:
    from autotimm.runtime import Manifest


def inspect(model: ModelPath, json_out: JsonOut = None) -> None:
    """Show what an artifact or a checkpoint says about itself."""
    manifest = _manifest_of(model)
    if json_out is not None:
        write_json(json.loads(manifest.to_json()), json_out)
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    names = ", ".join(manifest.class_names[:12]) + (", ..." if len(manifest.class_names) > 12 else "")
    rows: list[tuple[str, object]] = [
        ("file", f"{model}, {model.stat().st_size / 1e6:.1f} MB"),
        ("model", f"{manifest.architecture} ({manifest.model_class}), {manifest.task}"),
        ("classes", f"{len(manifest.class_names)}: {names}"),
        ("format", _format(manifest.format, manifest.precision, manifest.opset, manifest.target)),
        *(("input", spec) for spec in manifest.inputs),
        *(("output", spec) for spec in manifest.outputs),
        ("preprocess", ", ".join(f"{key} {value}" for key, value in manifest.preprocess.to_dict().items())),
        ("thresholds", ", ".join(f"{key} {value:g}" for key, value in manifest.thresholds.items())),
        ("post-processing", ", ".join(f"{key}: {value}" for key, value in manifest.postprocessing.items())),
        *_precision_rows(manifest),
        *engine_rows(manifest),
        ("hashes", ", ".join(f"{key} {value[:16]}" for key, value in manifest.hashes.items())),
        ("versions", ", ".join(f"{key} {value}" for key, value in manifest.versions.items())),
        ("created", manifest.created),
    ]
    for name, value in rows:
        if str(value):
            table.add_row(name, str(value))
    out.print(table)
    if manifest.format != "checkpoint":
        print_verification(manifest.verification)


def backbones(
    pattern: Annotated[str, typer.Argument(help="A word or a shell pattern, such as 'resnet*'.")] = "",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with pretrained weights.")] = False,
) -> None:
    """List the timm backbones that a model can be built on, one name a line."""
    from autotimm.models import list_backbones

    names = list_backbones(pattern, pretrained_only=pretrained)
    if not names:
        raise ConfigError(_no_backbone(pattern, list_backbones(pretrained_only=pretrained), pretrained))
    for name in names:
        typer.echo(name)
    err.print(f"{len(names)} backbones")


def _no_backbone(pattern: str, known: Sequence[str], pretrained: bool) -> str:
    """That nothing matches, with names and families (what stands before the first underscore) that are near."""
    families = {name.partition(".")[0].partition("_")[0] for name in known}
    word = pattern.strip().lower().strip("*?")
    near = difflib.get_close_matches(word, sorted({*known, *families}), n=6)
    what = f"no backbone{' with pretrained weights' if pretrained else ''} matches {pattern!r}"
    hint = f"did you mean {', '.join(near)}?" if near else "autotimm backbones lists all of them"
    return f"{what}; {hint}"


def doctor(json_out: JsonOut = None) -> None:
    """Show what is installed, which engines and devices work here, and what to install for the rest."""
    from autotimm.runtime.environment import diagnose

    findings = diagnose()
    if json_out is not None:
        write_json([finding.to_dict() for finding in findings], json_out)
        return
    table = Table("what", "state", box=None)
    table.add_column("found", overflow="fold")
    marks = {True: Text("works", "green"), False: Text("absent", "yellow")}
    for finding in findings:
        table.add_row(finding.what, marks[finding.works], finding.found)
    out.print(table)
    for finding in findings:
        if finding.remedy:  # outside the table, which would break a command that is to be copied
            out.print(f"{finding.remedy}  # for {finding.what}")


def _manifest_of(model: Path) -> Manifest:
    """From the artifact itself: what runs elsewhere only can be looked at here too."""
    from autotimm.runtime import is_artifact, read_manifest

    if is_artifact(model):
        return read_manifest(model)
    with open_predictor(model, None, None) as predictor:
        return predictor.manifest


def _precision_rows(manifest: Manifest) -> list[tuple[str, object]]:
    """How int8 came about, and what a lower precision costs, where that is known."""
    rows: list[tuple[str, object]] = []
    if (record := manifest.quantization) is not None:
        rows += [
            ("int8", f"{record.layers - len(record.kept)} of {record.layers} layers; {record.flavour}"),
            (
                "calibration",
                f"{record.method}, {record.image_source}, seed {record.seed}, images {record.images_sha256[:16]}",
            ),
            ("kept in fp32", ", ".join(record.kept)),
            ("int8 error", f"{record.relative_error:g}; {record.relative_error_of_all:g} with no more kept than must"),
        ]
    if manifest.accuracy is not None:
        rows.append(("accuracy", f"{manifest.accuracy} of {manifest.accuracy.data}"))
    return rows


def _format(name: str, precision: str, opset: int | None, target: str) -> str:
    """Of other formats than ONNX the target says nothing: there is but one."""
    targets = {"onnxruntime": "for onnxruntime", "portable": "portable (for every engine)"} if name == "onnx" else {}
    return ", ".join(
        [name, precision, *([f"opset {opset}"] if opset else []), *([targets[target]] if target in targets else [])]
    )
