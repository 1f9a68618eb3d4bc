"""An edge kit: a folder to copy to a device, where its engines are built and verified without torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from autotimm.export.golden import write_golden
from autotimm.export.tensorrt_options import EngineOptions, Range, profile_of
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

    ``NAME.PRECISION.onnx`` for each precision, ``golden/`` (input, and the output of the most exact of them
    on ONNX Runtime), ``profile.json``, ``build.sh`` and ``README.md``.

    Args:
        source: a model, a checkpoint, or a portable ONNX artifact, which is copied.
        folder: to write into; what it holds under these names is replaced.
        name: of the artifacts; that of the source where empty.
        precisions: of the artifacts, one each; the golden output is of the most exact of them.
        options: of the engines, for the lines of ``build.sh``.
        verify_images: folder of images to verify the artifacts on and to take the golden input from.
        onnx_options: of :func:`autotimm.export.export_to_onnx`.

    Returns:
        What was written.

    Raises:
        ConfigError: an option that does not fit the model, or a precision.
        DataError: no image can be read, or none has a size that the engines take.
        ExportError: a model that could not be exported.
        VerificationError: an artifact that does not give the model's answers.
    """
    root, options = Path(folder), options or EngineOptions()
    if root.exists() and not root.is_dir():
        raise AutoTimmError(f"{root}: is a file; --kit is a folder to write into")
    artifacts, remembered = _artifacts(source, root, name, precisions, options, verify_images, onnx_options or {})
    manifest = read_manifest(artifacts[0])
    write_golden(artifacts[0], root / GOLDEN, _golden_pictures(options, manifest, verify_images, remembered))
    engines = [(path, path.with_suffix(".engine")) for path in artifacts]
    flags = _in_full(options, manifest).as_flags()
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
) -> tuple[list[Path], list[str] | None]:
    """The artifacts, the most exact first, and the images that the model remembers; ``None`` for an artifact."""
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".onnx":
        return [_copied(Path(source), root, name, options, onnx_options)], None
    from autotimm.export.onnx import export_to_onnx
    from autotimm.models.checkpoint import load_checkpoint

    unknown = set(precisions) - set(get_args(Precision))
    if unknown or not precisions:
        raise ConfigError.unknown("precision", ", ".join(sorted(unknown)), get_args(Precision))
    wanted = [precision for precision in get_args(Precision) if precision in precisions]
    for precision in wanted:
        options.check_values(precision, onnx_options.get("batch", 1), onnx_options.get("input", "batch"))
    model = load_checkpoint(source) if isinstance(source, str | Path) else source
    stem = name or (Path(source).stem if isinstance(source, str | Path) else model.architecture)
    paths = []
    for precision in wanted:
        chosen = {"verify_images": images, **onnx_options, "target": "portable", "precision": precision}
        for option in _NOT_OF.get(precision, ()):
            if any(option not in _NOT_OF.get(other, ()) for other in wanted):  # it is for another one in the kit
                chosen.pop(option, None)
        paths.append(root / f"{stem}.{precision}.onnx")
        export_to_onnx(model, paths[-1], **chosen)
    return paths, model.validation_images


def _copied(source: Path, root: Path, name: str, options: EngineOptions, onnx_options: Mapping[str, Any]) -> Path:
    manifest = read_manifest(source)
    if manifest.target != "portable":
        raise ConfigError(
            f"{source}: was written for ONNX Runtime; give the checkpoint, or export with --target portable"
        )
    if onnx_options:
        raise ConfigError(f"{', '.join(onnx_options)} cannot be set on {source}, whose graph is done")
    options.check_values(manifest.precision)
    _profile(options, manifest)  # refuses a range that does not fit, before anything is written
    path = root / f"{name or source.stem.removesuffix('.portable')}.onnx"
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)
    return path


def _golden_pictures(
    options: EngineOptions, manifest: Manifest, images: str | Path | None, remembered: list[str] | None
) -> Pictures:
    """Of sizes that the engines will take."""
    chosen = choose_pictures(images, remembered)
    if manifest.input_mode == "image":
        spec = manifest.inputs[0]
        found = profile_of(options, spec.name, _parsed(spec.shape), manifest.input_mode)
        if found is not None:
            (low, left, _), (high, right, _) = found.minimum, found.maximum
            chosen = within(chosen, (low, left), (high, right))
    return chosen


def _profile(options: EngineOptions, manifest: Manifest) -> dict[str, Any]:
    ranges = {}
    for spec in manifest.inputs:
        found = profile_of(options, spec.name, _parsed(spec.shape), manifest.input_mode)
        if found is not None:
            ranges[spec.name] = asdict(found)
    return {"inputs": {str(spec.name): list(spec.shape) for spec in manifest.inputs}, "profile": ranges}


def _parsed(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    """As TensorRT's parser sees it: -1 where it is free."""
    return tuple(side if isinstance(side, int) else -1 for side in shape)


def _in_full(options: EngineOptions, manifest: Manifest) -> EngineOptions:
    """The options with the ranges that they leave open, so that these can be edited in ``build.sh``."""
    ranges: dict[str, Range] = {}
    for spec in manifest.inputs:
        found = profile_of(options, spec.name, _parsed(spec.shape), manifest.input_mode)
        for index, axis in enumerate(("height", "width") if manifest.input_mode == "image" else ("batch",)):
            if found is not None and not isinstance(spec.shape[index], int):
                ranges[axis] = (found.minimum[index], found.best[index], found.maximum[index])
    return replace(options, batch=ranges.get("batch"), height=ranges.get("height"), width=ranges.get("width"))


def _script(engines: Sequence[tuple[Path, Path]], flags: str) -> str:
    lines = [
        "#!/bin/sh",
        "# Builds and verifies on this device; takes further options of `autotimm build`.",
        "set -e",
        'cd "$(dirname "$0")"',
    ]
    return "\n".join([*lines, *_commands(engines, flags, '"$@"')]) + "\n"


def _commands(engines: Sequence[tuple[Path, Path]], *further: str) -> list[str]:
    """What builds every engine, then verifies each, in the folder of the kit."""
    builds, checks = [], []
    for onnx_path, engine in engines:
        names = (shlex.quote(onnx_path.name), shlex.quote(engine.name))
        builds.append(" ".join(part for part in (f"autotimm build {names[0]} -o {names[1]}", *further) if part))
        checks.append(f"autotimm verify {names[1]} --golden {GOLDEN}")
    return [*builds, *checks]


def _readme(engines: Sequence[tuple[Path, Path]], flags: str, manifest: Manifest) -> str:
    spec = manifest.inputs[0]
    commands = "\n".join(_commands(engines, flags))
    onnx_name, engine_name = (shlex.quote(path.name) for path in engines[0])
    trtexec = f"trtexec --onnx={onnx_name} --saveEngine={engine_name}"
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

Without autotimm: `{trtexec}`; with TensorRT 10 add
`--stronglyTyped`, with 8.6 `--fp16` (and `--int8`) for these precisions.
"""


def _write(path: Path, text: str, *, executable: bool = False) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if executable:
            os.chmod(temporary, 0o755)
