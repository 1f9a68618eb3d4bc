"""``autotimm export`` and ``autotimm verify``."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from autotimm.cli.console import err, out, working
from autotimm.runtime.errors import VerificationError

if TYPE_CHECKING:
    from autotimm.runtime import Verification


class Format(str, Enum):
    """Formats of an artifact."""

    onnx = "onnx"


class Nms(str, Enum):
    """Forms of NMS in the graph."""

    auto = "auto"
    operator = "operator"
    tensor = "tensor"


class Precision(str, Enum):
    """Of the network in the graph."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class CalibrationMethod(str, Enum):
    """How the ranges of int8 are chosen."""

    percentile = "percentile"
    entropy = "entropy"
    minmax = "minmax"


class Target(str, Enum):
    """Engines that a graph is written for."""

    onnxruntime = "onnxruntime"
    portable = "portable"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="An AutoTimm .ckpt or an official YOLOX .pth.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.onnx,  # noqa: A002 (the option's name)
    batch: Annotated[str, typer.Option(metavar="N|dynamic", help="Images per run.")] = "1",
    target: Annotated[
        Target, typer.Option(help="onnxruntime: what is fastest there. portable: what every engine runs.")
    ] = Target.onnxruntime,
    size: Annotated[tuple[int, int] | None, typer.Option(metavar="H W", help="Network input size.")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Detections below it are dropped.")] = None,
    iou_threshold: Annotated[float | None, typer.Option(help="NMS drops the lower of two boxes above it.")] = None,
    max_detections: Annotated[int | None, typer.Option(min=1, help="Detections kept per image.")] = None,
    candidates: Annotated[int | None, typer.Option(min=1, help="Locations that enter NMS, best first.")] = None,
    nms: Annotated[
        Nms, typer.Option(help="operator: ONNX Runtime's own. tensor: plain operations, for every engine.")
    ] = Nms.auto,
    class_agnostic_nms: Annotated[
        bool | None,
        typer.Option("--class-agnostic-nms/--nms-per-class", help="Whether boxes of all classes suppress one another."),
    ] = None,
    multi_label: Annotated[
        bool | None,
        typer.Option("--multi-label/--single-label", help="Whether every class of a location can be a detection."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the network; what is around it stays fp32.")
    ] = Precision.fp32,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="int8: images like those to come; else the checkpoint's validation images."),
    ] = None,
    calibration_images: Annotated[int, typer.Option(min=1, max=512, help="int8: at most so many are used.")] = 128,
    calibration_method: Annotated[
        CalibrationMethod, typer.Option(help="int8: how the ranges are chosen.")
    ] = CalibrationMethod.percentile,
    calibration_seed: Annotated[int, typer.Option(min=0, help="int8: of the choice of the images.")] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR|CSV", help="fp16, int8: annotated data to measure what they cost.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of --data.")] = "val",
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much lower the main figure on --data may be: 0.01 is one point."),
    ] = None,
    verify_images: Annotated[
        Path | None, typer.Option(help="Folder of images to verify on; else the checkpoint's own, else generated ones.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with the PyTorch model.")] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; CHECKPOINT's name if absent.")
    ] = None,
) -> None:
    """Export a checkpoint to one self-describing artifact, and verify it against the PyTorch model."""
    path = output if output is not None else Path(checkpoint.with_suffix(f".{format.value}").name)
    count = _batch(batch)
    with working(f"exporting {checkpoint.name}"):
        from autotimm.export import CalibrationSettings, export_to_onnx

        calibrated = None
        if precision == Precision.int8 or calibration is not None:
            calibrated = CalibrationSettings(
                calibration, calibration_images, calibration_method.value, calibration_seed
            )
        manifest = export_to_onnx(
            checkpoint,
            path,
            batch=count,
            target=target.value,
            precision=precision.value,
            calibration=calibrated,
            data=data,
            split=split,
            max_drop=max_drop,
            size=size,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            candidates=candidates,
            nms=nms.value,
            class_agnostic_nms=class_agnostic_nms,
            multi_label=multi_label,
            verify_images=verify_images,
            verify=verify,
        )
    height, width = manifest.preprocess.size
    megabytes = path.stat().st_size / 1e6
    facts = (
        f"{manifest.architecture}, {len(manifest.class_names)} classes, {height}x{width}, "
        f"batch {batch}, {manifest.precision}, opset {manifest.opset}, {megabytes:.1f} MB"
    )
    out.print(Text.assemble((str(path), "bold"), "  ", facts))
    if manifest.quantization is not None:
        record = manifest.quantization
        out.print(
            f"int8: {record.layers - len(record.kept)} of {record.layers} layers, calibrated on {record.image_source}, "
            f"by {record.method}"
        )
    if manifest.accuracy is not None:
        out.print(f"{precision.value}: {manifest.accuracy}")
    print_verification(manifest.verification)
    err.print(f"next: autotimm predict {shlex.quote(str(path))} PHOTO.jpg --save predictions")


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact to verify.")],
    against: Annotated[Path, typer.Option(metavar="CHECKPOINT|ONNX", help="What it must be equal to.")],
    images: Annotated[Path | None, typer.Option(help="Folder of images to compare on.")] = None,
) -> None:
    """Compare an artifact with the model it was made from, and write the record into it."""
    with working(f"verifying {artifact.name}"):
        from autotimm.export import verify as run_verification

        record = run_verification(artifact, against, images=images)
    print_verification(record)
    if record.status == "failed":
        raise VerificationError(f"{artifact} does not give the answers of {against}: {record.reason}")


def print_verification(record: Verification) -> None:
    """The record in two lines."""
    colour = {"passed": "green", "failed": "red"}.get(record.status, "yellow")
    on = f" on {record.images} images, {record.image_source}, against {record.reference}" if record.images else ""
    out.print(Text.assemble("verification: ", (record.status, f"bold {colour}"), on))
    out.print(f"  {record.reason}")
    if record.compared.get("detections") == 0:
        out.print(
            "  nothing was detected on these images: what was compared are the candidates before thresholds and NMS"
        )


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number of images nor 'dynamic'", param_hint="--batch")
