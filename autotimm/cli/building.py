"""``autotimm build``: an ONNX artifact to an engine, on the device and without torch; and the options of engines."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from autotimm.cli.console import err, out, warn, working

if TYPE_CHECKING:
    from autotimm.runtime import Manifest


class Flavour(str, Enum):
    """Libraries that build engines."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"


class Hardware(str, Enum):
    """GPUs that an engine may run on, besides that of the build."""

    none = "none"
    ampere_plus = "ampere_plus"
    same_compute_capability = "same_compute_capability"


_PANEL = "TensorRT"
FlavourOption = Annotated[
    Flavour | None,
    typer.Option(
        metavar="LIBRARY",
        rich_help_panel=_PANEL,
        help="tensorrt or tensorrt_rtx; else the one that is installed, tensorrt first.",
    ),
]
ProfileBatch = Annotated[
    tuple[int, int, int] | None,
    typer.Option(
        metavar="MIN OPT MAX", rich_help_panel=_PANEL, help="Images a run, where the artifact leaves that free."
    ),
]
ProfileHeight = Annotated[
    tuple[int, int, int] | None,
    typer.Option(metavar="MIN OPT MAX", rich_help_panel=_PANEL, help="Height of images, where any size is taken."),
]
ProfileWidth = Annotated[
    tuple[int, int, int] | None,
    typer.Option(metavar="MIN OPT MAX", rich_help_panel=_PANEL, help="Width of images, where any size is taken."),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        metavar="MIB", min=1, rich_help_panel=_PANEL, help="Device memory that a layer may use while it runs."
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option(rich_help_panel=_PANEL, help="File for what the builder measures; makes the next build quicker."),
]
VersionCompatible = Annotated[
    bool,
    typer.Option("--version-compatible", rich_help_panel=_PANEL, help="Newer versions of TensorRT may run the engine."),
]
HardwareOption = Annotated[
    Hardware,
    typer.Option(
        "--hardware-compatibility",
        metavar="GPUS",  # all choices here would leave no room for the option's name
        rich_help_panel=_PANEL,
        help="Other GPUs may run the engine: ampere_plus or same_compute_capability.",
    ),
]
DlaCore = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, rich_help_panel=_PANEL, help="Deep-learning accelerator of a Jetson to use."),
]
OptimizationLevel = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, max=5, rich_help_panel=_PANEL, help="0: quickest build; 5: fastest engine."),
]


def build(
    artifact: Annotated[
        Path, typer.Argument(metavar="X.onnx", help="An ONNX artifact, exported with --target portable.")
    ],
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
    verify_images: Annotated[
        Path | None, typer.Option(help="Folder of images to verify on, where the engine can run; else generated ones.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with the ONNX artifact.")] = True,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; X.engine if absent.")] = None,
) -> None:
    """Build a TensorRT engine from an ONNX artifact, on the device that it is for."""
    path = output if output is not None else Path(f"{artifact.stem.removesuffix('.portable')}.engine")
    options = {
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
    build_engine(artifact, path, {**options, "verify": verify, "verify_images": verify_images})


_DEFAULTS = {
    "batch": 1,
    "input": "batch",
    "split": "val",
    "version_compatible": False,
    "hardware_compatibility": "none",
}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from their defaults."""
    return {name: value for name, value in options.items() if value is not None and value != _DEFAULTS.get(name)}


def engine_or_kit(
    source: Path,
    path: Path,
    kit: Path | None,
    precisions: list[Any],
    of_graph: dict[str, Any],
    of_engine: dict[str, Any],
    checking: dict[str, Any],
    *,
    named: bool,
) -> None:
    """What ``autotimm export --format trt`` does: an engine, or the kit to build it on a device.

    Args:
        source: a checkpoint, or an ONNX artifact.
        path: the engine.
        kit: the folder of the kit, where one is asked for.
        precisions: of the kit's artifacts; one, where there is no kit.
        of_graph: options of the ONNX export that differ from their defaults.
        of_engine: options of the engine.
        checking: ``verify`` and ``verify_images``.
        named: whether the user named the engine, and with it the files of the kit.
    """
    is_artifact = source.suffix.lower() == ".onnx"
    if precisions != ["fp32"] and (kit is None or is_artifact):
        of_graph = {"precision": precisions[0], **of_graph}
    if is_artifact and of_graph:
        raise typer.BadParameter(
            f"{', '.join('--' + name.replace('_', '-') for name in of_graph)}: the graph of {source.name} is done; "
            "give the checkpoint"
        )
    if kit is None:
        build_engine(source, path, {**of_engine, **checking}, None if is_artifact else of_graph)
        return
    from autotimm.export.kit import write_kit
    from autotimm.export.tensorrt_options import EngineOptions

    if of_engine.pop("flavour") is not None:
        raise typer.BadParameter("--flavour: of the device, which is not known here; give it to build.sh there")
    with working(f"writing the kit of {source.name}"):
        written = write_kit(
            source,
            kit,
            name=path.stem if named else "",
            precisions=precisions,
            options=EngineOptions(**{name.removeprefix("profile_"): value for name, value in of_engine.items()}),
            verify_images=checking["verify_images"],
            onnx_options={**of_graph, **({} if checking["verify"] else {"verify": False})},
        )
    for file in written:
        size = file.stat().st_size
        out.print(f"{file}  {size / 1e6:.1f} MB" if size >= 1e5 else f"{file}  {size / 1e3:.1f} kB")
    err.print(f"next: copy {shlex.quote(str(kit))} to the device and run there: sh {shlex.quote(kit.name)}/build.sh")


def build_engine(source: Path, path: Path, options: dict[str, Any], onnx_options: dict[str, Any] | None = None) -> None:
    """Build with a progress bar, and print what came of it."""
    from autotimm.cli.exporting import print_verification
    from autotimm.export.tensorrt import export_to_tensorrt

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    first = f"exporting {source.name}" if onnx_options is not None else f"reading {source.name}"
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(first, total=1.0)
        manifest = export_to_tensorrt(
            source,
            path,
            **options,
            onnx_options=onnx_options,
            progress=lambda what, share: bar.update(task, description=what, completed=share),
        )
    print_engine(path, manifest)
    print_verification(manifest.verification)
    where = "next" if manifest.verification.status == "passed" else "next, on the device"
    err.print(f"{where}: autotimm predict {shlex.quote(str(path))} PHOTO.jpg --save predictions")


def engine_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """What is known of an engine, name by name, for a person; nothing of another artifact."""
    record = manifest.engine
    if record is None:
        return []
    built_for = f", for {record.gpu} (compute capability {record.compute_capability})" if record.gpu else ""
    layers = ", ".join(f"{count} {kind}" for kind, count in record.precisions.items())
    profile = [
        (f"profile of {name}", f"{list(part.minimum)} to {list(part.maximum)}, fastest at {list(part.best)}")
        for name, part in record.profile.items()
    ]
    options = ", ".join(f"{name} {value}" for name, value in record.options.items())
    return [
        ("engine", f"{record.flavour} {record.version}, {record.platform}{built_for}"),
        *profile,
        *([("options", options)] if options else []),
        ("layers", f"{layers}; read from the {record.inspected}"),
    ]


def print_engine(path: Path, manifest: Manifest) -> None:
    """The engine in a line or two, and what the builder had to remark."""
    record = manifest.engine
    if record is None:
        return
    height, width = manifest.preprocess.size
    megabytes = path.stat().st_size / 1e6
    facts = (
        f"{manifest.architecture}, {len(manifest.class_names)} classes, {height}x{width}, {manifest.precision}, "
        f"{megabytes:.1f} MB, built by {record.flavour} {record.version} in {record.build_seconds:.1f} s"
        + (f" for {record.gpu} ({record.compute_capability})" if record.gpu else "")
    )
    out.print(Text.assemble((str(path), "bold"), "  ", facts))
    for name, value in engine_rows(manifest)[1:]:
        out.print(f"  {name}: {value}")
    for remark in record.remarks:
        warn(remark)
