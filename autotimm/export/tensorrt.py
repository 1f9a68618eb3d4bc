"""Building an engine of TensorRT or TensorRT-RTX from an ONNX artifact; neither torch nor onnx is needed for that."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotimm.export.tensorrt_builder import Built, build_plan
from autotimm.export.tensorrt_flavour import Library, choose_library
from autotimm.export.tensorrt_options import EngineOptions, Range
from autotimm.export.tensorrt_progress import ReportProgress
from autotimm.runtime.artifact import read_manifest
from autotimm.runtime.cuda_device import CudaDevice, cuda_device
from autotimm.runtime.errors import (
    ArtifactError,
    AutoTimmError,
    BackendUnavailableError,
    ConfigError,
    DataError,
    ExportError,
    VerificationError,
)
from autotimm.runtime.files import replacing, sha256_of
from autotimm.runtime.images import list_images
from autotimm.runtime.manifest import Manifest, Verification
from autotimm.runtime.sidecar import EngineRecord, Flavour, sidecar_of, this_platform

if TYPE_CHECKING:
    from autotimm.models.task import TaskModel

SUFFIXES = (".engine", ".plan")


def export_to_tensorrt(
    source: TaskModel | str | Path,
    path: str | Path,
    *,
    flavour: Flavour | None = None,
    profile_batch: Range | None = None,
    profile_height: Range | None = None,
    profile_width: Range | None = None,
    workspace: int | None = None,
    timing_cache: str | Path | None = None,
    version_compatible: bool = False,
    hardware_compatibility: str = "none",
    dla_core: int | None = None,
    optimization_level: int | None = None,
    verify: bool = True,
    verify_images: str | Path | None = None,
    progress: ReportProgress | None = None,
    onnx_options: Mapping[str, Any] | None = None,
) -> Manifest:
    """Build an engine, with its manifest beside it as ``NAME.engine.json``.

    The precision is that of the ONNX graph. An engine that can run here is verified against the ONNX artifact; one that
    cannot says ``not run`` and why, and ``autotimm verify`` completes it on the device.

    Args:
        source: a portable ONNX artifact; or a model or a checkpoint, which is first exported to ``NAME.portable.onnx``
            beside the engine, and kept there.
        path: the plan to write, ``.engine`` or ``.plan``; it appears with its manifest when both are complete.
        flavour: ``"tensorrt"`` or ``"tensorrt_rtx"``; where absent, the one that is installed, TensorRT first.
        profile_batch: fewest, usual and most images a run, for artifacts with a free batch; (1, 1, 8) where absent.
        profile_height: smallest, usual and largest height in pixels, for artifacts that take an image of any size;
            (32, 720, 4096) where absent.
        profile_width: the same of the width; (32, 1280, 4096) where absent.
        workspace: MiB of device memory that a layer may use while it runs.
        timing_cache: file that keeps what the builder measured; read where it exists, and written.
        version_compatible: whether newer versions of TensorRT may read the engine.
        hardware_compatibility: ``"ampere_plus"`` or ``"same_compute_capability"``: run on other GPUs too.
        dla_core: deep-learning accelerator of a Jetson to use.
        optimization_level: 0 (quickest build) to 5 (fastest engine).
        verify: ``False`` leaves the verification out, and the manifest says so.
        verify_images: folder of images for the verification; where absent, validation images that the checkpoint
            remembers, else generated pictures.
        progress: told what is being done and the share of the build that is done, 0 to 1.
        onnx_options: options of :func:`autotimm.export.export_to_onnx`, where the source is no artifact.

    Returns:
        The manifest beside the engine; its ``engine`` says where and how it was built.

    Raises:
        ConfigError: an option that this version, the device or the artifact does not have.
        DataError: the folder of images is missing or empty.
        BackendUnavailableError: no TensorRT is installed, or it needs a CUDA device; an ONNX artifact made on the way
            is kept, and the message has the command that finishes.
        ExportError: a node that cannot be built, or a precision that is not in the engine.
        VerificationError: the engine does not give the artifact's answers; it is kept as ``NAME.rejected.engine``.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the name of an engine ends in {' or '.join(SUFFIXES)}")
    options = EngineOptions(
        profile_batch,
        profile_height,
        profile_width,
        workspace,
        Path(timing_cache) if timing_cache is not None else None,
        version_compatible,
        hardware_compatibility,
        dla_core,
        optimization_level,
    )
    artifact = _artifact(source)
    if artifact is None:
        _check_early(options, flavour, onnx_options or {})
        checking = Checking(verify, verify_images)
        artifact, checking = _export(source, path, checking, onnx_options or {})
        try:
            return _to_engine(artifact, path, flavour, options, checking, progress)
        except BackendUnavailableError as error:
            raise BackendUnavailableError(f"{error}. {_finish(artifact, path, options)}") from error
    if onnx_options:
        raise ConfigError(
            f"{', '.join(onnx_options)} cannot be set on {artifact}, whose graph is done: give the checkpoint instead"
        )
    return _to_engine(artifact, path, flavour, options, Checking(verify, verify_images), progress)


@dataclass(frozen=True)
class Checking:
    """Whether and on what an engine is compared with its artifact."""

    verify: bool
    images: str | Path | None
    """A folder."""
    remembered: list[str] | None = None
    """Validation images of the checkpoint; ``None`` where there is no checkpoint."""


def portable_name(engine: Path) -> Path:
    """The ONNX artifact that is made on the way from a checkpoint: never the name of one made for ONNX Runtime."""
    return engine.with_name(f"{engine.stem}.portable.onnx")


def _artifact(source: TaskModel | str | Path) -> Path | None:
    """The source, where it is an ONNX artifact."""
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx":
        return Path(source)
    return None


def _check_early(options: EngineOptions, flavour: Flavour | None, onnx_options: Mapping[str, Any]) -> None:
    """Refuse options that no artifact can have here, before the export, which takes its time."""
    precision = onnx_options.get("precision", "fp32")
    options.check_values(precision, onnx_options.get("batch", 1), onnx_options.get("input", "batch"))
    with contextlib.suppress(BackendUnavailableError):  # said when the artifact is there to go on with elsewhere
        options.check(choose_library(flavour), precision)


def _export(
    source: TaskModel | str | Path, path: Path, checking: Checking, onnx_options: Mapping[str, Any]
) -> tuple[Path, Checking]:
    """The portable artifact of a model, and the images that the model remembers."""
    from autotimm.export.onnx import export_to_onnx
    from autotimm.models.checkpoint import load_checkpoint

    model = load_checkpoint(source) if isinstance(source, str | Path) else source
    onnx_path = portable_name(path)
    verification = {"verify": checking.verify, "verify_images": checking.images}
    export_to_onnx(model, onnx_path, **{**verification, **onnx_options, "target": "portable"})
    return onnx_path, replace(checking, remembered=model.validation_images)


def _finish(onnx_path: Path, path: Path, options: EngineOptions) -> str:
    command = f"autotimm build {shlex.quote(onnx_path.name)} -o {shlex.quote(path.name)} {options.as_flags()}".rstrip()
    return f"{onnx_path} was written and is ready for it: copy it to the device, and there run: {command}"


def _to_engine(
    onnx_path: Path,
    path: Path,
    flavour: Flavour | None,
    options: EngineOptions,
    checking: Checking,
    progress: ReportProgress | None,
) -> Manifest:
    manifest = _readable(onnx_path)
    library = choose_library(flavour)
    if manifest.opset is not None and manifest.opset > library.highest_opset:
        raise ExportError(
            f"{onnx_path}: is of opset {manifest.opset}, and {library.name} reads up to {library.highest_opset} and "
            "may misread a newer one: export again with --target portable, or use a newer TensorRT"
        )
    options.check(library, manifest.precision)
    if checking.verify and checking.images is not None:
        list_images(checking.images)
    # Paths that cannot be written are found out before the build, which can take minutes.
    with replacing(path) as plan, replacing(sidecar_of(path)) as sidecar:
        built = build_plan(library, onnx_path, manifest, options, progress)
        try:
            plan.write_bytes(built.plan)
        except OSError as error:  # a full disk names no file, and would be put down to the smaller one
            raise AutoTimmError(f"{path}: could not be written: {error.strerror or error}") from error
        device = cuda_device()
        manifest = _described(manifest, _record(library, built, options, device, onnx_path, plan))
        manifest = replace(manifest, verification=_verify(plan, path, manifest, onnx_path, checking, device))
        sidecar.write_text(manifest.to_json(), encoding="utf-8")
        if manifest.verification.status == "failed":
            rejected = _keep_rejected(plan, sidecar, path)
            raise VerificationError(
                f"{path}: the engine does not give the answers of {onnx_path}: {manifest.verification.reason}. "
                f"It was kept as {rejected}"
            )
    return manifest


def _readable(onnx_path: Path) -> Manifest:
    """The manifest of an artifact that an engine can be built from."""
    manifest = read_manifest(onnx_path)
    if manifest.target != "portable":
        raise ArtifactError(
            f"{onnx_path}: was written for ONNX Runtime, with operators that TensorRT lacks; make one for TensorRT: "
            f"autotimm export CHECKPOINT --target portable -o {shlex.quote(f'{onnx_path.stem}.portable.onnx')}"
        )
    return manifest


def _record(
    library: Library, built: Built, options: EngineOptions, device: CudaDevice | None, onnx_path: Path, plan: Path
) -> EngineRecord:
    bound = None if library.is_rtx else device  # an engine of TensorRT-RTX is for every RTX GPU
    return EngineRecord(
        flavour=library.flavour,
        version=library.version,
        platform=this_platform(),
        gpu=bound.name if bound else "",
        compute_capability=bound.compute_capability if bound else "",
        cuda=device.cuda if device else "",
        profile=built.profile,
        options=options.recorded(),
        precisions=built.precisions.layers,
        inspected=built.precisions.source,
        plan_sha256=sha256_of(plan),
        onnx_sha256=sha256_of(onnx_path),
        build_seconds=round(built.seconds, 2),
        remarks=built.remarks,
    )


def _described(manifest: Manifest, record: EngineRecord) -> Manifest:
    return replace(
        manifest,
        format="trt",
        engine=record,
        versions={**manifest.versions, record.flavour: record.version},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        verification=Verification(),
    )


def _verify(
    plan: Path,
    path: Path,
    manifest: Manifest,
    onnx_path: Path,
    checking: Checking,
    device: CudaDevice | None,
) -> Verification:
    """Run the engine where it can run; else say why not, and how to complete the verification.

    An engine that took minutes to build is not thrown away because nothing is on the pictures, none has its size, or
    memory is short.
    """
    if not checking.verify:
        return Verification(reason="not asked for")
    names = f"{shlex.quote(path.name)} --against {shlex.quote(onnx_path.name)}"
    how = f"complete it on the device: autotimm verify {names}"
    if device is None:
        return Verification(reason=f"no CUDA device; {how}")
    from autotimm.export.engine_verification import compare_with_artifact

    beside = sidecar_of(plan)
    beside.write_text(manifest.to_json(), encoding="utf-8")
    try:
        return compare_with_artifact(plan, onnx_path, images=checking.images, remembered=checking.remembered)
    except (ArtifactError, BackendUnavailableError, DataError, VerificationError) as error:
        return Verification(reason=f"{error}; {how}")
    finally:
        beside.unlink()


def _keep_rejected(plan: Path, sidecar: Path, path: Path) -> Path:
    rejected = path.with_name(f"{path.stem}.rejected{path.suffix}")
    with replacing(rejected) as copy, replacing(sidecar_of(rejected)) as report:
        shutil.copyfile(plan, copy)
        shutil.copyfile(sidecar, report)
    return rejected
