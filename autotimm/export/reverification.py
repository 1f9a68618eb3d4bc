"""``autotimm verify``: verify an artifact that exists already, and write the record into it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from autotimm.export.archive import archive_digest, read_parts, write_archive
from autotimm.export.candidates import against_artifact, against_model
from autotimm.export.delivery import Write
from autotimm.export.logits import logits_against_artifact, logits_against_model
from autotimm.export.onnx import graph_digest, write_onnx
from autotimm.export.settings import ExportSettings, applied
from autotimm.export.verification import check_same_model, check_same_task, verify_artifact
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.detection import DetectionModel
from autotimm.models.semantic.segmentor import SemanticSegmentor
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.artifact import is_artifact, load, read_manifest
from autotimm.runtime.errors import VerificationError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Manifest, Verification
from autotimm.runtime.pictures import choose_pictures


def verify(artifact: str | Path, against: str | Path, *, images: str | Path | None = None) -> Verification:
    """Compare an artifact with the checkpoint it was made from, or with another artifact of the same model.

    Args:
        artifact: the artifact; the record is written into its manifest, whether it passed or failed.
        against: an AutoTimm checkpoint, an official YOLOX ``.pth``, or another artifact.
        images: folder of images to compare on.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
        ArtifactError: the artifact cannot be read.
        CheckpointError: the checkpoint cannot be read.
    """
    manifest = read_manifest(artifact)
    digest, write = _stored(Path(artifact))
    if digest != manifest.hashes.get("graph_sha256"):
        raise VerificationError(f"{artifact}: its graph was changed after its export; export the model again")
    if is_artifact(against):
        record = _against_artifact(Path(artifact), Path(against), manifest, images)
    else:
        record = _against_checkpoint(Path(artifact), against, manifest, images)
    with replacing(artifact) as temporary:
        write(replace(manifest, verification=record), temporary)
    return record


def _stored(artifact: Path) -> tuple[str, Write]:
    """The digest of the graph in a file, and what writes that graph with another manifest."""
    if artifact.suffix.lower() == ".pt":
        parts = read_parts(artifact)
        return archive_digest(parts), partial(write_archive, parts)
    proto = onnx.load(artifact)
    return graph_digest(proto), partial(write_onnx, proto)


def _against_artifact(artifact: Path, against: Path, manifest: Manifest, images: str | Path | None) -> Verification:
    if read_manifest(against).hashes.get("graph_sha256") == manifest.hashes["graph_sha256"]:
        raise VerificationError(f"{artifact} and {against} are one and the same graph, which proves nothing")
    with load(against) as reference:
        check_same_model(artifact, manifest, reference.manifest)
        return verify_artifact(
            artifact,
            reference,
            pictures=choose_pictures(images, None),
            compare_candidates=against_artifact(against)
            if manifest.task in ("detection", "instance_segmentation")
            else None,
            compare_logits=logits_against_artifact(against) if manifest.task == "semantic_segmentation" else None,
        )


def _against_checkpoint(
    artifact: Path, against: str | Path, manifest: Manifest, images: str | Path | None
) -> Verification:
    model = load_checkpoint(against)
    check_same_task(artifact, manifest.task, model.task)
    with applied(model, ExportSettings.of(manifest)):
        return verify_artifact(
            artifact,
            predictor_of(model),
            pictures=choose_pictures(images, model.validation_images),
            compare_candidates=against_model(model) if isinstance(model, DetectionModel) else None,
            compare_logits=logits_against_model(model) if isinstance(model, SemanticSegmentor) else None,
        )
