"""An edge kit: a folder to copy to a device, where its engines are built and verified without torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotimm.export.golden import write_golden
from autotimm.export.tensorrt_options import EngineOptions, check_profile, flags_of, parsed_shape, profile_of
from autotimm.runtime.artifact import read_manifest
from autotimm.runtime.errors import AutoTimmError, ConfigError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Manifest, Precision
from autotimm.runtime.pictures import Pictures, choose_pictures, within

if TYPE_CHECKING:
    from autotimm.models.task import TaskModel

GOLDEN = "golden"


_NOT_OF: dict[Precision, tuple[str, ...]] = {
    "fp32": ("calibration", "data", "split", "max_drop"),
    "fp16": ("calibration",),
}
"""Options of an export that a precision has no use for."""


def write_kit(
    source: TaskModel | str | Path,
    folder: str | Path,
    *,
    name: str = "",
    precisions: Sequence[Precision] = ("fp32",),
    options: EngineOptions | None = None,
    verify_images: str | Path | None = None,
    onnx_options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write everything that a device needs to build engines of a model and to verify them.

    ``NAME.PRECISION.onnx`` for each precision, ``golden/`` (input, and the output of the first of them on ONNX
    Runtime), ``profile.json``, ``build.sh`` and ``README.md``.

    Args:
        source: a model, a checkpoint, or a portable ONNX artifact, which is copied.
        folder: to write into; what it holds under these names is replaced.
        name: of the artifacts; that of the source where empty.
        precisions: of the artifacts, one each; the golden output is of the first, so name the most exact one first.
        options: of the engines, for the lines of ``build.sh``.
        verify_images: folder of images to verify the artifacts on and to take the golden input from.
        onnx_options: of :func:`autotimm.export.export_to_onnx`.

    Returns:
        What was written.

    Raises:
        ConfigError: an option that does not fit the model.
        ExportError: a model that could not be exported.
        VerificationError: an artifact that does not give the model's answers.
    """
    root, options = Path(folder), options or EngineOptions()
    if root.exists() and not root.is_dir():
        raise AutoTimmError(f"{root}: is a file; --kit is a folder to write into")
    artifacts = _artifacts(source, root, name, precisions, options, verify_images, onnx_options or {})
    manifest = read_manifest(artifacts[0])
    write_golden(artifacts[0], root / GOLDEN, _taken(options, manifest, verify_images, source))
    engines = [(path, path.with_suffix(".engine")) for path in artifacts]
    flags = flags_of(options, manifest)
    _write(root / "profile.json", json.dumps(_profile(options, manifest), indent=1) + "\n")
    _write(root / "build.sh", _script(engines, flags), executable=True)
    _write(root / "README.md", _readme(engines, flags, manifest))
    golden = sorted((root / GOLDEN).iterdir())
    return [*artifacts, *golden, root / "profile.json", root / "build.sh", root / "README.md"]


def _artifacts(
    source: TaskModel | str | Path,
    root: Path,
    name: str,
    precisions: Sequence[Precision],
    options: EngineOptions,
    images: str | Path | None,
    onnx_options: Mapping[str, Any],
) -> list[Path]:
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx":
        return [_copied(Path(source), root, name, options, onnx_options)]
    from autotimm.export.onnx import export_to_onnx

    if "int8" not in precisions and onnx_options.get("calibration") is not None:
        raise ConfigError(f"calibration is for int8, and the kit is of {', '.join(precisions)}: leave it out")
    check_profile(options, onnx_options.get("input", "batch"), onnx_options.get("batch", 1))
    for precision in precisions:
        options.check_precision(precision)
    stem = name or (Path(source).stem if isinstance(source, str | Path) else source.architecture)
    paths = {precision: root / f"{stem}.{precision}.onnx" for precision in precisions}
    for precision in sorted(paths, key=lambda one: one != "int8"):  # what may be refused comes first
        chosen = {"verify_images": images, **onnx_options, "target": "portable", "precision": precision}
        for option in _NOT_OF.get(precision, ()):  # those of another precision in the kit
            if len(precisions) > 1:
                chosen.pop(option, None)
        export_to_onnx(source, paths[precision], **chosen)
    return list(paths.values())


def _copied(source: Path, root: Path, name: str, options: EngineOptions, onnx_options: Mapping[str, Any]) -> Path:
    manifest = read_manifest(source)
    options.check_precision(manifest.precision)
    if manifest.target != "portable":
        raise ConfigError(
            f"{source}: was written for ONNX Runtime; give the checkpoint, or export with --target portable"
        )
    if onnx_options:
        raise ConfigError(f"{', '.join(onnx_options)} cannot be set on {source}, whose graph is done")
    path = root / f"{name or source.stem.removesuffix('.portable')}.onnx"
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)
    return path


def _remembered(source: TaskModel | str | Path) -> list[str] | None:
    """Validation images that a checkpoint remembers; ``None`` for an artifact, which remembers none."""
    if isinstance(source, str | Path):
        if Path(source).suffix.lower() == ".onnx":
            return None
        from autotimm.models.checkpoint import load_checkpoint

        source = load_checkpoint(source)
    return source.validation_images


def _taken(
    options: EngineOptions, manifest: Manifest, images: str | Path | None, source: TaskModel | str | Path
) -> Pictures:
    """Pictures that the engines take: those of any size have a profile."""
    pictures = choose_pictures(images, _remembered(source))
    if manifest.input_mode != "image":
        return pictures
    spec = manifest.inputs[0]
    sizes = profile_of(options, spec.name, parsed_shape(spec.shape), manifest.input_mode)
    assert sizes is not None  # height and width are free
    return within(pictures, sizes.minimum[:2], sizes.maximum[:2])


def _profile(options: EngineOptions, manifest: Manifest) -> dict[str, Any]:
    ranges = {}
    for spec in manifest.inputs:
        found = profile_of(options, spec.name, parsed_shape(spec.shape), manifest.input_mode)
        if found is not None:
            ranges[spec.name] = asdict(found)
    return {"inputs": {str(spec.name): list(spec.shape) for spec in manifest.inputs}, "profile": ranges}


def _script(engines: Sequence[tuple[Path, Path]], flags: str) -> str:
    lines = [
        "#!/bin/sh",
        "# Builds and verifies on this device; takes further options of `autotimm build`.",
        "set -e",
    ]
    lines.append('cd "$(dirname "$0")"')
    for onnx_path, engine in engines:
        names = (shlex.quote(onnx_path.name), shlex.quote(engine.name))
        lines.append(" ".join(part for part in (f"autotimm build {names[0]} -o {names[1]}", flags, '"$@"') if part))
        lines.append(f"autotimm verify {names[1]} --golden {GOLDEN}")
    return "\n".join(lines) + "\n"


def _readme(engines: Sequence[tuple[Path, Path]], flags: str, manifest: Manifest) -> str:
    spec = manifest.inputs[0]
    commands = "\n".join(
        f"autotimm build {onnx_path.name} -o {engine.name} {flags}".rstrip()
        + f"\nautotimm verify {engine.name} --golden {GOLDEN}"
        for onnx_path, engine in engines
    )
    int8 = any(read_manifest(onnx_path).precision == "int8" for onnx_path, _ in engines)
    ranges = (
        "\nThe ranges of int8 are in the Q/DQ nodes of its ONNX file: no calibration table is needed.\n" if int8 else ""
    )
    return f"""# {manifest.architecture} for a device

Input `{spec}`, RGB; {len(manifest.class_names)} classes. An engine belongs to the device and to the TensorRT that
built it, so it is built there:

```sh
{commands}
```

`sh build.sh` runs these lines. They need `autotimm-deploy`, TensorRT and, to verify, pycuda or cuda-python;
no torch and no ONNX Runtime. On a Jetson TensorRT comes with JetPack; make the virtual environment with
`python3 -m venv --system-site-packages`.
{ranges}
| file | what |
| --- | --- |
| `*.onnx` | the model for every engine, one file a precision; each says what it is: `autotimm inspect FILE` |
| `{GOLDEN}/input.npy` | uint8 pictures as the model takes them |
| `{GOLDEN}/output.npz` | what {engines[0][0].name} answered to them on ONNX Runtime |
| `profile.json` | the shapes that the engines are built for |

Without autotimm: `trtexec --onnx={engines[0][0].name} --saveEngine={engines[0][1].name}`; with TensorRT 10 add
`--stronglyTyped`, with 8.6 `--fp16` (and `--int8`) for these precisions.
"""


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if executable:
            os.chmod(temporary, 0o755)
