"""An artifact as a model of NVIDIA Triton Inference Server: a folder of its model repository.

The layout: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html.
Neither protobuf, onnx nor torch is needed.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotimm.export.triton_config import LABELS, QueuePolicy, config_text, label_lines, manifest_line, profile_of_input
from autotimm.runtime.artifact import read_manifest
from autotimm.runtime.errors import AutoTimmError, ConfigError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import METADATA_KEY, Manifest
from autotimm.runtime.sidecar import sidecar_of

CONFIG, MANIFEST = "config.pbtxt", f"{METADATA_KEY}.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILES = {".onnx": "model.onnx", ".engine": "model.plan", ".plan": "model.plan"}
"""The name that Triton looks for, by the suffix of an artifact."""


def write_repository(
    artifact: str | Path,
    repository: str | Path,
    *,
    name: str = "",
    version: int = 1,
    max_batch: int | None = None,
    queue: QueuePolicy | None = None,
    force: bool = False,
) -> Path:
    """Put an artifact into a model repository, as a new model or as a further version of one that is there.

    A model is ``NAME/config.pbtxt``, ``NAME/labels.txt`` and for each version ``NAME/N/model.onnx`` (or ``model.plan``
    with its sidecar) and ``NAME/N/autotimm.json``, the manifest. A further version keeps ``config.pbtxt`` as it is, but
    for the line that holds the manifest of the highest version. Everything appears under its name at once.

    Args:
        artifact: ``.onnx`` for Triton's ONNX Runtime, ``.engine`` or ``.plan`` for its TensorRT.
        repository: folder of the models; made where it is absent.
        name: of the model; that of the file where empty.
        version: from 1 on.
        max_batch: images that Triton may put into one run, where the artifact leaves the batch free; ``None`` is
            8, or what an engine takes where that is less.
        queue: of the requests that wait for a batch; ``None`` is the default.
        force: replace a model of this name with all its versions.

    Returns:
        The folder of the model.

    Raises:
        ArtifactError: not an artifact of AutoTimm.
        ConfigError: a file that Triton does not run, an option that does not fit, or another model under that name.
        AutoTimmError: the repository cannot be written.
    """
    source, root = Path(artifact), Path(repository)
    filename = _FILES.get(source.suffix.lower())
    if filename is None:
        raise ConfigError(
            f"{source}: a Triton repository takes ONNX artifacts and TensorRT engines; export a checkpoint first: "
            f"autotimm export {source.name} --format onnx --batch dynamic"
        )
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).strip("-.") or "model"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the model name {name!r} cannot stand in a URL; use letters, digits, '-', '_' and '.'")
    if version < 1:
        raise ConfigError(f"the model version is {version}, but must be a whole number from 1 on")
    manifest = read_manifest(source)
    if manifest.engine is not None and manifest.engine.flavour != "tensorrt":
        raise ConfigError(f"{source}: is an engine of TensorRT-RTX, which Triton does not run; build one for TensorRT")
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: is a file; a model repository is a folder")
    model = root / name
    if model.exists() and not force:
        if max_batch is not None or queue is not None:
            raise ConfigError(f"{model / CONFIG}: is kept for a further version; change the batch and the queue there")
        _add_version(source, filename, manifest, model, version)
        return model
    text = config_text(manifest, name, max_batch=max_batch, queue=queue or QueuePolicy())
    with _appearing(model) as folder:
        _write_version(source, filename, manifest, folder / str(version))
        (folder / LABELS).write_text(label_lines(manifest), encoding="utf-8")
        (folder / CONFIG).write_text(text, encoding="utf-8")
    return model


def _add_version(source: Path, filename: str, manifest: Manifest, model: Path, version: int) -> None:
    """A further version of a model that is there.

    Raises:
        ConfigError: the version is there, or the model is another one.
    """
    folder = model / str(version)
    versions = sorted(int(path.parent.name) for path in model.glob(f"*/{MANIFEST}") if path.parent.name.isdigit())
    if folder.exists():
        raise ConfigError(
            f"{folder}: is there; give --model-version {max([*versions, version]) + 1} for a further version, or "
            "--force to replace the model with all its versions"
        )
    if not versions or not (model / CONFIG).is_file():
        raise ConfigError(f"{model}: was not written by AutoTimm; give another --model-name, or --force to replace it")
    known = model / str(versions[-1]) / MANIFEST
    there = Manifest.from_json(known.read_text(encoding="utf-8"), str(known))
    for what, ours, theirs in (
        ("format", manifest.format, there.format),
        ("inputs", manifest.inputs, there.inputs),
        ("outputs", manifest.outputs, there.outputs),
        ("classes", manifest.class_names, there.class_names),
        ("profile", profile_of_input(manifest), profile_of_input(there)),
    ):
        if ours != theirs:
            raise ConfigError(
                f"{source}: has other {what} than version {versions[-1]} in {model}, and the versions of a model share "
                "one config.pbtxt; give another --model-name"
            )
    with _appearing(folder) as temporary:
        _write_version(source, filename, manifest, temporary)
    if version > versions[-1]:
        config = model / CONFIG
        start = f'parameters {{ key: "{METADATA_KEY}" '
        lines = config.read_text(encoding="utf-8").splitlines()
        with replacing(config) as changed:
            new = [manifest_line(manifest) if line.startswith(start) else line for line in lines]
            changed.write_text("\n".join(new) + "\n", encoding="utf-8")


def _write_version(source: Path, filename: str, manifest: Manifest, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(source, folder / filename)
    if manifest.engine is not None:
        shutil.copyfile(sidecar_of(source), sidecar_of(folder / filename))
    (folder / MANIFEST).write_text(manifest.to_json() + "\n", encoding="utf-8")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder``, which takes its name, and its place, when the block ends well.

    Raises:
        AutoTimmError: it cannot be written.
    """
    mark = uuid.uuid4().hex[:8]
    temporary, old = (folder.with_name(f".{folder.name}-{mark}{end}") for end in ("", "-old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise AutoTimmError(f"{folder}: could not be written: {error.strerror or error}") from error
    finally:
        if old.exists() and not folder.exists():  # interrupted between the two names
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
