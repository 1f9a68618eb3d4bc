"""What is checked before TensorRT sees an engine: it says little about a foreign one, and may crash on it."""

from __future__ import annotations

import shlex
from pathlib import Path

from autotimm.runtime.backends.cuda_buffers import Device
from autotimm.runtime.backends.tensorrt_library import TITLES, version_numbers
from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.files import sha256_of
from autotimm.runtime.sidecar import EngineRecord, sidecar_of, this_platform

_NEXT_MAJOR = {8: 10, 10: 11}
"""The major version after each; a version-compatible engine runs in one newer major version at most (NVIDIA's developer
guide, Version Compatibility)."""
_AMPERE = (8, 0)


def check_record(path: Path, record: EngineRecord, version: str) -> None:
    """Refuse an engine that this machine's library cannot read; asks no device.

    Args:
        path: the engine.
        record: how it was built.
        version: ``__version__`` of the library of the record's flavour that is here.

    Raises:
        ArtifactError: it was built on another platform or by another version, or is not the file that was described.
    """
    here = this_platform()
    if record.platform != here:
        raise ArtifactError(
            f"{path}: was built on {record.platform} and this is {here}; an engine does not move between platforms: "
            f"{rebuild(path)}"
        )
    title = TITLES[record.flavour]
    if not _readable(record, version):
        why = (
            "a version-compatible engine runs in later versions, up to the next major one"
            if record.version_compatible
            else "an engine runs in the version that built it only"
        )
        raise ArtifactError(
            f"{path}: was built by {title} {record.version} and this is {title} {version}; {why}: {rebuild(path)}"
        )
    if record.plan_sha256 and sha256_of(path) != record.plan_sha256:
        raise ArtifactError(
            f"{path}: is not the engine that {sidecar_of(path).name} describes, or was damaged (their SHA-256 differ); "
            f"copy both files together, or {rebuild(path)}"
        )


def check_device(path: Path, record: EngineRecord, device: Device) -> None:
    """Refuse an engine of another kind of GPU.

    Raises:
        ArtifactError: the compute capability is not one that the engine was built for.
    """
    built, here = record.compute_capability, device.compute_capability
    if not built or built == here:
        return
    if record.hardware_compatibility == "ampere_plus" and version_numbers(here) >= _AMPERE:
        return
    wanted = "8.0 or newer" if record.hardware_compatibility == "ampere_plus" else built
    raise ArtifactError(
        f"{path}: was built for compute capability {wanted} ({record.gpu or 'GPU not recorded'}) and this device is "
        f"{device.name}, compute capability {here}: {rebuild(path)}"
    )


def rebuild(path: Path) -> str:
    """What makes an engine of this machine: the command, with the artifact that lies beside it."""
    portable = path.with_name(f"{path.stem}.portable.onnx")  # as ``--format trt`` leaves it there
    artifact = portable if portable.exists() else path.with_suffix(".onnx")
    return f"build it on this machine with autotimm build {shlex.quote(str(artifact))} -o {shlex.quote(str(path))}"


def _readable(record: EngineRecord, version: str) -> bool:
    """Whether the version that is here reads what the recorded one wrote."""
    built, here = version_numbers(record.version), version_numbers(version)
    shared = min(len(built), len(here))  # packages of a version name its build or leave it out
    if not shared:
        return False
    if built[:shared] == here[:shared]:
        return True
    if not record.version_compatible:
        return False
    return built < here and here[0] in (built[0], _NEXT_MAJOR.get(built[0]))
