"""``autotimm verify``: verify an artifact that exists already, and write the record into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from autotimm.export.onnx import embed_manifest
from autotimm.export.settings import ExportSettings, applied
from autotimm.export.verification import verify_artifact
from autotimm.models.checkpoint import load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.artifact import load, read_manifest
from autotimm.runtime.errors import VerificationError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Verification


def verify(artifact: str | Path, against: str | Path, *, images: str | Path | None = None) -> Verification:
    """Compare an artifact with the checkpoint it was made from, or with another artifact of the same model.

    Args:
        artifact: the artifact; the record is written into its manifest, whether it passed or failed.
        against: an AutoTimm checkpoint, an official YOLOX ``.pth``, or an ``.onnx`` artifact.
        images: folder of images to compare on.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
        ArtifactError: the artifact cannot be read.
        CheckpointError: the checkpoint cannot be read.
    """
    manifest = read_manifest(artifact)
    if Path(against).suffix == ".onnx":
        with load(against) as reference:
            record = verify_artifact(artifact, reference, images=images)
    else:
        model = load_checkpoint(against)
        if model.task != manifest.task:
            raise VerificationError(
                f"{artifact} was not made from this model: its task is {manifest.task}, the model's {model.task}"
            )
        with applied(model, ExportSettings.of(manifest)):
            record = verify_artifact(artifact, predictor_of(model), images=images, model=model)
    proto = onnx.load(artifact)
    embed_manifest(proto, replace(manifest, verification=record))
    with replacing(artifact) as temporary:
        onnx.save(proto, temporary)
    return record
