"""Verifying an engine where it runs: against the ONNX artifact, the golden output of a kit, or the checkpoint.

The first two need neither torch nor onnx. An engine does not give the inner values that the verification of an ONNX
artifact looks at, so what is compared are its results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autotimm.export.golden import as_prepared, open_golden
from autotimm.export.verification import check_same_model, verify_artifact
from autotimm.runtime.artifact import is_artifact, load, read_manifest
from autotimm.runtime.errors import BackendUnavailableError, ConfigError, VerificationError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Verification
from autotimm.runtime.pictures import Pictures, choose_pictures, within
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.sidecar import sidecar_of


def verify_engine(
    engine: str | Path,
    against: str | Path | None = None,
    *,
    golden: str | Path | None = None,
    images: str | Path | None = None,
) -> Verification:
    """Compare an engine and write the record into the manifest beside it, whether it passed or failed.

    Args:
        engine: the engine; it must run here.
        against: the ONNX artifact it was built from (or another of the same model), or the checkpoint.
        golden: the folder of golden input and output of an edge kit, in place of ``against``.
        images: folder of images to compare on; not with ``golden``, which brings its own.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
        ConfigError: nothing to compare with, or two things.
        DataError: no image has a size that the engine takes.
        ArtifactError: the engine or what it is compared with cannot be read or run here.
        BackendUnavailableError: no CUDA device, no TensorRT, no ONNX Runtime.
    """
    path = Path(engine)
    if golden is not None:
        if against is not None:
            raise ConfigError("--against cannot be used with --golden: an engine is compared with one of them")
        if images is not None:
            raise ConfigError("--images cannot be used with --golden, which brings its own pictures")
        record = _compare_with_golden(path, golden)
    elif against is None:
        raise ConfigError(f"{path}: say what to compare it with: --against X.onnx, or --golden DIR of an edge kit")
    elif is_artifact(against):
        record = compare_with_artifact(path, Path(against), images=images)
    else:
        record = _compare_with_checkpoint(path, Path(against), images)
    with replacing(sidecar_of(path)) as temporary:
        temporary.write_text(replace(read_manifest(path), verification=record).to_json(), encoding="utf-8")
    return record


def compare_with_artifact(
    engine: Path, against: Path, *, images: str | Path | None = None, remembered: list[str] | None = None
) -> Verification:
    """Compare an engine with another artifact; nothing is written.

    Args:
        engine: it must run here.
        against: the artifact.
        images: folder of images to compare on.
        remembered: where there is none, validation images that the checkpoint remembers.
    """
    if read_manifest(against).engine is not None:
        raise VerificationError(f"{against}: is an engine itself, which proves nothing; give the ONNX artifact")
    try:
        reference = load(against)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(f"{error}; or compare with the golden output of a kit: --golden DIR") from error
    with reference:
        return verify_artifact(engine, reference, pictures=_pictures(engine, images, remembered))


def _pictures(engine: Path, images: str | Path | None, remembered: list[str] | None) -> Pictures:
    """As for every artifact, of sizes that the engine takes."""
    chosen = choose_pictures(images, remembered)
    manifest = read_manifest(engine)
    if manifest.input_mode == "batch" or manifest.engine is None:
        return chosen
    for shapes in manifest.engine.profile.values():
        (low, left, _), (high, right, _) = shapes.minimum, shapes.maximum
        chosen = within(chosen, (low, left), (high, right))
    return chosen


def _compare_with_golden(engine: Path, golden: str | Path) -> Verification:
    reference, pictures = open_golden(golden)
    check_same_model(engine, as_prepared(read_manifest(engine)), reference.manifest)
    with load(engine) as opened:
        prepared = Predictor(opened.backend, as_prepared(opened.manifest))
        return verify_artifact(engine, reference, pictures=pictures, artifact_predictor=prepared)


def _compare_with_checkpoint(engine: Path, against: Path, images: str | Path | None) -> Verification:
    from autotimm.export.settings import ExportSettings, applied
    from autotimm.models.checkpoint import load_checkpoint
    from autotimm.models.torch_backend import predictor_of

    model = load_checkpoint(against)
    with applied(model, ExportSettings.of(read_manifest(engine))):
        pictures = _pictures(engine, images, model.validation_images)
        return verify_artifact(engine, predictor_of(model), pictures=pictures)
