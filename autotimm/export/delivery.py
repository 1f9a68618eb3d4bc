"""From a graph that is ready to a file under the name that was asked for: written, verified, or rejected."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from autotimm.export.accuracy import AccuracyMeter
from autotimm.export.candidates import against_model
from autotimm.export.graph.contract import ExportGraph
from autotimm.export.graph.detection import DetectionGraph
from autotimm.export.graph.half import find_overflow
from autotimm.export.graph.image import ImageGraph
from autotimm.export.logits import logits_against_model
from autotimm.export.verification import verify_artifact
from autotimm.models.detection import DetectionModel
from autotimm.models.semantic.segmentor import SemanticSegmentor
from autotimm.models.task import TaskModel
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime.errors import VerificationError
from autotimm.runtime.files import replacing
from autotimm.runtime.manifest import Manifest, Verification
from autotimm.runtime.pictures import Pictures

Write = Callable[[Manifest, Path], None]
"""Writes the artifact with this manifest in it to a path."""


def described_by(graph: ExportGraph, manifest: Manifest) -> Manifest:
    """A model's manifest with what the composition of the graph decided."""
    thresholds, postprocessing = dict(manifest.thresholds), dict(manifest.postprocessing)
    of_batches = graph.stages if isinstance(graph, ImageGraph) else graph
    if isinstance(of_batches, DetectionGraph):
        thresholds["candidates"] = of_batches.settings.candidates
        postprocessing["nms"] = of_batches.settings.nms
    return replace(
        manifest,
        thresholds=thresholds,
        postprocessing=postprocessing,
        target="portable" if graph.portable else "onnxruntime",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def write_verified(
    model: TaskModel,
    manifest: Manifest,
    write: Write,
    *,
    path: Path,
    temporary: Path,
    pictures: Pictures | None,
    accuracy: AccuracyMeter | None = None,
) -> Manifest:
    """Write an artifact, compare it with the model through the runtime, and write the record into it.

    Args:
        model: what the artifact must be equal to, with the settings of the export.
        manifest: what the artifact says about itself.
        write: writes the artifact.
        path: the name that was asked for, for messages and for the names of a rejected artifact.
        temporary: where to write.
        pictures: to compare on; ``None`` writes it unverified, and the manifest says so.
        accuracy: measures on annotated data what the precision costs.

    Returns:
        The manifest with the record.

    Raises:
        VerificationError: it does not give the model's answers, or loses more on the data than it may; it is kept as
            ``NAME.rejected`` beside its report.
    """
    write(manifest, temporary)
    if pictures is not None:
        record = verify_artifact(
            temporary,
            predictor_of(model),
            pictures=pictures,
            compare_candidates=against_model(model) if isinstance(model, DetectionModel) else None,
            compare_logits=logits_against_model(model) if isinstance(model, SemanticSegmentor) else None,
        )
        if record.status == "failed" and manifest.precision == "fp16":
            record = _with_overflow(record, model, pictures)
    else:
        record = Verification(reason="not asked for")
    manifest = replace(manifest, verification=record)
    if accuracy is not None and record.status != "failed":
        manifest = replace(manifest, accuracy=accuracy(temporary))
    write(manifest, temporary)
    if record.status == "failed":
        rejected = keep_rejected(temporary, manifest, path)
        raise VerificationError(
            f"{path}: the exported graph does not give the model's answers: {record.reason}. "
            f"It was kept as {rejected} with its report beside it"
        )
    if manifest.accuracy is not None and manifest.accuracy.too_low:
        rejected = keep_rejected(temporary, manifest, path)
        raise VerificationError(
            f"{path}: {manifest.precision} costs more than {manifest.accuracy.max_drop:g}: {manifest.accuracy}. "
            f"It was kept as {rejected} with its report beside it"
        )
    return manifest


def _with_overflow(record: Verification, model: TaskModel, pictures: Pictures) -> Verification:
    """Name the layer whose values float16 cannot hold, where that is why."""
    reference = predictor_of(model)
    found = find_overflow(model.network, lambda: map(reference.predict, pictures.images))
    return replace(record, reason=f"{record.reason}; {found}: export with fp32") if found else record


def keep_rejected(artifact: Path, manifest: Manifest, path: Path) -> Path:
    """Copy an artifact that failed to ``NAME.rejected.SUFFIX``, with its manifest as JSON beside it."""
    rejected = path.with_name(f"{path.stem}.rejected{path.suffix}")
    with replacing(rejected) as copy:
        shutil.copyfile(artifact, copy)
    with replacing(rejected.with_suffix(".json")) as report:
        report.write_text(manifest.to_json(), encoding="utf-8")
    return rejected
