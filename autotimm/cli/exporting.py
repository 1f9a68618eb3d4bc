"""``autotimm export`` and ``autotimm verify``."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from autotimm.cli.building import (
    DlaCore,
    FlavourOption,
    Hardware,
    HardwareOption,
    OptimizationLevel,
    ProfileBatch,
    ProfileHeight,
    ProfileWidth,
    TimingCache,
    VersionCompatible,
    Workspace,
    engine_or_kit,
    given,
)
from autotimm.cli.console import err, out, warn, working
from autotimm.cli.graph_options import (
    CalibrationImagesOption,
    CalibrationMethodOption,
    CalibrationOption,
    CalibrationSeedOption,
    CandidatesOption,
    ClassAgnosticNmsOption,
    DataOption,
    IouThresholdOption,
    MaxDetectionsOption,
    MaxDropOption,
    MultiLabelOption,
    Nms,
    NmsOption,
    Precision,
    Precisions,
    ScoreThresholdOption,
    SplitOption,
)
from autotimm.cli.triton import Force, MaxBatch, ModelName, ModelVersion, of_model_given, repository
from autotimm.runtime.errors import ConfigError, VerificationError

if TYPE_CHECKING:
    from autotimm.export import CalibrationSettings
    from autotimm.runtime import Verification


class Format(str, Enum):
    """Formats of an artifact."""

    onnx = "onnx"
    torchscript = "torchscript"
    trt = "trt"
    triton = "triton-repo"


SUFFIXES = {Format.onnx: ".onnx", Format.torchscript: ".pt", Format.trt: ".engine"}
"""What the name of an artifact ends in."""
_FORMATS = {**{suffix: kind for kind, suffix in SUFFIXES.items()}, ".plan": Format.trt}
_KINDS = {Format.onnx: "an ONNX artifact", Format.torchscript: "a TorchScript artifact", Format.trt: "an engine"}


FEW_IMAGES = 32
"""Fewer to calibrate on are remarked: the verification finds what is broken, and lets pass what is merely poor."""


class Input(str, Enum):
    """What a run of the artifact takes."""

    batch = "batch"
    image = "image"


class Target(str, Enum):
    """Engines that a graph is written for."""

    onnxruntime = "onnxruntime"
    portable = "portable"


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="An AutoTimm .ckpt or an official YOLOX .pth; with --format trt or triton-repo an artifact."
        ),
    ],
    format: Annotated[Format, typer.Option(help="What to write.")] = Format.onnx,  # noqa: A002 (the option's name)
    batch: Annotated[str, typer.Option(metavar="N|dynamic", help="Images per run.")] = "1",
    input: Annotated[  # noqa: A002 (the option's name)
        Input, typer.Option(help="batch: resized images. image: one image of any size, which the graph resizes.")
    ] = Input.batch,
    target: Annotated[
        Target | None,
        typer.Option(
            help="onnxruntime: what is fastest there. portable: what every engine runs.",
            show_default="onnxruntime for ONNX, else portable",
        ),
    ] = None,
    size: Annotated[tuple[int, int] | None, typer.Option(metavar="H W", help="Network input size.")] = None,
    score_threshold: ScoreThresholdOption = None,
    iou_threshold: IouThresholdOption = None,
    max_detections: MaxDetectionsOption = None,
    candidates: CandidatesOption = None,
    nms: NmsOption = Nms.auto,
    class_agnostic_nms: ClassAgnosticNmsOption = None,
    multi_label: MultiLabelOption = None,
    precision: Precisions = None,
    calibration: CalibrationOption = None,
    calibration_images: CalibrationImagesOption = None,
    calibration_method: CalibrationMethodOption = None,
    calibration_seed: CalibrationSeedOption = None,
    data: DataOption = None,
    split: SplitOption = "val",
    max_drop: MaxDropOption = None,
    verify_images: Annotated[
        Path | None,
        typer.Option(help="Images to verify on; else the checkpoint's own, int8 its calibration's, else generated."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with the PyTorch model.")] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; CHECKPOINT's name if absent.")
    ] = None,
    kit: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel="TensorRT",
            help="Write what a device needs to build and verify, not an engine.",
        ),
    ] = None,
    flavour: FlavourOption = None,
    profile_batch: ProfileBatch = None,
    profile_height: ProfileHeight = None,
    profile_width: ProfileWidth = None,
    workspace: Workspace = None,
    timing_cache: TimingCache = None,
    version_compatible: VersionCompatible = False,
    hardware_compatibility: HardwareOption = Hardware.none,
    dla_core: DlaCore = None,
    optimization_level: OptimizationLevel = None,
    model_name: ModelName = None,
    model_version: ModelVersion = None,
    max_batch: MaxBatch = None,
    force: Force = False,
) -> None:
    """Export a checkpoint to one self-describing artifact, and verify it against the PyTorch model."""
    of_model = of_model_given(model_name, model_version, max_batch, force=force)
    of_graph: dict[str, Any] = {
        "batch": _batch(batch),
        "input": input.value,
        "data": data,
        "split": split,
        "max_drop": max_drop,
        "size": size,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
        "candidates": candidates,
        "class_agnostic_nms": class_agnostic_nms,
        "multi_label": multi_label,
    }
    calibrated = {
        "source": calibration,
        "images": calibration_images,
        "method": calibration_method.value if calibration_method else None,
        "seed": calibration_seed,
    }
    precisions = [one.value for one in precision or [Precision.fp32]]
    if kit is None and len(precisions) > 1:
        raise typer.BadParameter("several are for a kit: --format trt --kit DIR", param_hint="--precision")
    checking: dict[str, Any] = {"verify": verify, "verify_images": verify_images}
    of_engine: dict[str, Any] = {
        "flavour": flavour.value if flavour is not None else None,
        "profile_batch": profile_batch,
        "profile_height": profile_height,
        "profile_width": profile_width,
        "workspace": workspace,
        "timing_cache": timing_cache,
        "version_compatible": version_compatible,
        "hardware_compatibility": hardware_compatibility.value,
        "dla_core": dla_core,
        "optimization_level": optimization_level,
    }
    if format is Format.triton:
        others = {"target": target, "kit": kit, "precision": precision, "nms": None if nms is Nms.auto else nms}
        repository(checkpoint, output, given({**of_graph, **of_engine, **others}), calibrated, checking, of_model)
        return
    if of_model:
        raise typer.BadParameter("a model's name, version, batch and --force: only with --format triton-repo")
    path = output if output is not None else Path(f"{checkpoint.stem.removesuffix('.portable')}{SUFFIXES[format]}")
    _check_name(path, format)
    if format is not Format.onnx:
        _check_portable(target, nms, format)
    if format is Format.trt:
        of_graph.update(
            calibration=_calibration(calibrated),
            target=target.value if target else None,
            nms=None if nms is Nms.auto else nms.value,
        )
        engine_or_kit(checkpoint, path, kit, precisions, given(of_graph), of_engine, checking, named=output is not None)
        return
    foreign = [*given(of_engine), *(["kit"] if kit else ())]
    if foreign:
        raise typer.BadParameter(
            f"{', '.join('--' + name.replace('_', '-') for name in foreign)}: only with --format trt",
            param_hint="--format",
        )
    if checkpoint.exists() and path.exists() and path.samefile(checkpoint):
        raise ConfigError(f"{path}: would be written over the checkpoint; name another file with -o")
    with working(f"exporting {checkpoint.name}"):
        of_graph.update(precision=precisions[0], calibration=_calibration(calibrated))
        if format is Format.torchscript:
            from autotimm.export import export_to_torchscript

            manifest = export_to_torchscript(checkpoint, path, **of_graph, **checking)
        else:
            from autotimm.export import export_to_onnx

            of_graph["target"] = (target or Target.onnxruntime).value
            manifest = export_to_onnx(checkpoint, path, nms=nms.value, **of_graph, **checking)
    height, width = manifest.preprocess.size
    megabytes = path.stat().st_size / 1e6
    takes = "one image of any size" if input is Input.image else f"batch {batch}"
    written = f"opset {manifest.opset}" if manifest.opset else manifest.format
    facts = (
        f"{manifest.architecture}, {len(manifest.class_names)} classes, {height}x{width}, "
        f"{takes}, {manifest.precision}, {written}, {megabytes:.1f} MB"
    )
    out.print(Text.assemble((str(path), "bold"), "  ", facts))
    if manifest.quantization is not None:
        record = manifest.quantization
        out.print(
            f"int8: {record.layers - len(record.kept)} of {record.layers} layers, calibrated on {record.image_source}, "
            f"by {record.method}; answers off by {record.relative_error:.0%} of their spread"
        )
        if record.images < FEW_IMAGES:
            warn(
                f"the ranges of int8 are of {record.images} images only: give some hundred with --calibration DIR, and "
                "--data to see what int8 costs"
            )
    if manifest.accuracy is not None:
        out.print(f"{manifest.precision}: {manifest.accuracy}")
    print_verification(manifest.verification)
    err.print(f"next: autotimm predict {shlex.quote(str(path))} PHOTO.jpg --save predictions")


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact to verify.")],
    against: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT|ARTIFACT", help="What it must be equal to.")
    ] = None,
    golden: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Engines: the golden input and output of an edge kit instead.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images to compare on.")] = None,
) -> None:
    """Compare an artifact with the model it was made from, and write the record into it."""
    with working(f"verifying {artifact.name}"):
        from autotimm.export import verify as run_verification

        record = run_verification(artifact, against, golden=golden, images=images)
    print_verification(record)
    if record.status == "failed":
        raise VerificationError(f"{artifact} does not give the answers of {golden or against}: {record.reason}")


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


def _check_name(path: Path, format: Format) -> None:  # noqa: A002
    """Refuse the name of another format: it says what the user wants, and ``--format`` was forgotten.

    Raises:
        ConfigError: naming the format.
    """
    meant = _FORMATS.get(path.suffix.lower(), format)
    if meant is not format:
        raise ConfigError(
            f"{path}: the name of {_KINDS[format]} ends in {SUFFIXES[format]}; for this name give "
            f"--format {meant.value}"
        )


def _check_portable(target: Target | None, nms: Nms, format: Format) -> None:  # noqa: A002
    """Refuse the options of ONNX Runtime for a file that it does not run.

    Raises:
        ConfigError: naming the option.
    """
    what = _KINDS[format]
    if target is Target.onnxruntime:
        raise ConfigError(f"--target onnxruntime is for ONNX: {what} is always portable")
    if nms is Nms.operator:
        raise ConfigError(f"--nms operator is ONNX Runtime's own: {what} has --nms tensor")


def _calibration(given: dict[str, Any]) -> CalibrationSettings | None:
    """Settings from the options that were given, ``None`` where none was."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        return None
    from autotimm.export import CalibrationSettings

    return CalibrationSettings(**chosen)


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number of images nor 'dynamic'", param_hint="--batch")
