"""Proof that an artifact gives the answers of the model it was made from, on real images, through the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from autotimm.dense import joint_scores
from autotimm.export.comparison import Differences, compare_classifications, compare_detections
from autotimm.export.graph.detection import DetectionGraph
from autotimm.models.detection import DetectionModel
from autotimm.models.task import TaskModel
from autotimm.runtime.artifact import load
from autotimm.runtime.errors import ImageError, VerificationError
from autotimm.runtime.manifest import Manifest, Verification
from autotimm.runtime.pictures import choose_pictures
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.results import Classification, Detections

TOLERANCES: dict[str, dict[str, float]] = {
    "classification": {"probability": 1e-4, "relative_probability": 1e-3, "top1_changes": 0.0},
    "detection": {
        "box_px": 0.3,
        "score": 1e-3,
        "unmatched_share": 0.01,
        "candidate_box_px": 0.3,
        "candidate_score": 1e-3,
    },
}
"""Largest differences allowed in fp32. The boxes and scores are what official YOLOX exports are held to; observed
differences are about a hundred times smaller."""


def verify_artifact(
    artifact: str | Path,
    reference: Predictor,
    *,
    images: str | Path | None = None,
    model: TaskModel | None = None,
) -> Verification:
    """Compare an artifact with a reference, image by image.

    Args:
        artifact: the artifact file.
        reference: a predictor of the model it was made from (or of another artifact of it).
        images: folder of images; see :func:`autotimm.runtime.pictures.choose_pictures` for what stands in.
        model: the PyTorch model behind the reference, for comparing the candidates before thresholds and NMS too.

    Returns:
        The record, with status ``passed`` or ``failed``.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
        DataError: the image folder is missing or empty.
    """
    pictures = choose_pictures(images, model.validation_images if model is not None else [])
    differences = Differences()
    with load(artifact) as predictor:
        _check_same_model(Path(artifact), predictor.manifest, reference.manifest)
        tolerance = TOLERANCES[predictor.manifest.task]
        # Two at a time, so that a graph with a free batch dimension is also seen with more than one image.
        answers = predictor.predict(pictures.images, batch_size=_two_if_free(predictor), on_error="return")
        expected = reference.predict(pictures.images, batch_size=_two_if_free(reference), on_error="return")
        for ours, theirs in zip(answers, expected, strict=True):
            _compare(differences, theirs, ours, predictor.manifest, tolerance)
        if isinstance(model, DetectionModel):
            _compare_candidates(differences, Path(artifact), model, reference, pictures.images)
    if not differences.compared["images"]:
        raise VerificationError(f"{artifact}: none of the {len(answers)} images could be read, so nothing was compared")
    if "detections" in differences.compared:
        share = differences.compared["unmatched"] / max(1, differences.compared["detections"])
        differences.note("unmatched_share", share)
    exceeding = differences.exceeding(tolerance)
    return Verification(
        status="failed" if exceeding else "passed",
        reason="; ".join(exceeding) or _in_words(differences, unreadable=len(answers) - differences.compared["images"]),
        images=differences.compared["images"],
        image_source=pictures.source,
        reference=f"{reference.manifest.model_class} on {reference.backend.name}",
        compared={name: count for name, count in differences.compared.items() if name != "images"},
        worst={name: float(f"{value:.4g}") for name, value in differences.worst.items()},
        tolerance=tolerance,
    )


def _two_if_free(predictor: Predictor) -> int | None:
    return 2 if predictor.fixed_batch is None else None


def _check_same_model(artifact: Path, ours: Manifest, theirs: Manifest) -> None:
    """Refuse to compare what cannot be equal; the difference is named."""
    for name in ("task", "class_names", "preprocess"):
        own, other = getattr(ours, name), getattr(theirs, name)
        if own != other:
            raise VerificationError(
                f"{artifact} was not made from this model: its {name} is {str(own)[:160]}, "
                f"the model's {str(other)[:160]}"
            )


def _compare(
    differences: Differences, theirs: object, ours: object, manifest: Manifest, tolerance: dict[str, float]
) -> None:
    if isinstance(theirs, ImageError):
        return
    if isinstance(theirs, Classification) and isinstance(ours, Classification):
        compare_classifications(differences, theirs, ours)
    elif isinstance(theirs, Detections) and isinstance(ours, Detections):
        compare_detections(
            differences,
            theirs,
            ours,
            manifest.preprocess.place(*theirs.image_size),
            thresholds=manifest.thresholds,
            box_tolerance=tolerance["box_px"],
            score_tolerance=tolerance["score"],
        )


def _compare_candidates(
    differences: Differences,
    artifact: Path,
    model: DetectionModel,
    reference: Predictor,
    images: list[Path] | list[NDArray[np.uint8]],
) -> None:
    """Compare every candidate before thresholds and NMS with the model's own decoding of the same location.

    Where a model finds little on the images, this is what there is to compare.
    """
    session = _session_with_internals(artifact)
    for image in images:
        try:
            pixels, _ = reference.prepare(image)
        except ImageError:
            continue
        batch = np.repeat(pixels[None], _fixed_batch(session), axis=0)
        index, boxes, scores, labels = (
            value[0] for value in session.run(list(DetectionGraph.internal_names), {"images": batch})
        )
        with torch.inference_mode():
            raw = model.network(model.normalize(torch.from_numpy(pixels[None]).to(model.device)))
            all_boxes, all_scores, _ = (value[0].cpu() for value in model.decode(raw))
            count = min(len(index), len(all_scores))
            index = torch.from_numpy(index[:count])
            # Of the artifact's label: a wrong one shows, a near-tie between two classes does not.
            class_logits = raw.classes[0].cpu()[torch.from_numpy(labels[:count]), index]
            label_scores = joint_scores(raw.objectness[0, 0].cpu()[index], class_logits)
        differences.compared["candidates"] += count
        differences.note("candidate_score", scores[:count] - label_scores.numpy())
        # The selection itself: by rank, both lists of scores must agree, whatever locations they name.
        differences.note("candidate_score", scores[:count] - all_scores.topk(count).values.numpy())
        differences.note("candidate_box_px", boxes[:count] - all_boxes[index].numpy())


def _session_with_internals(artifact: Path) -> onnxruntime.InferenceSession:
    """The artifact's own graph, with the values before thresholds and NMS as outputs."""
    proto = onnx.load(artifact)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in DetectionGraph.internal_names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the added outputs carry no type, which ONNX Runtime mentions and then infers
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _fixed_batch(session: onnxruntime.InferenceSession) -> int:
    batch = session.get_inputs()[0].shape[0]
    return batch if isinstance(batch, int) else 1


def _in_words(differences: Differences, unreadable: int) -> str:
    compared = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in differences.compared.items() if count)
    worst = ", ".join(f"{name} {value:.2g}" for name, value in differences.worst.items())
    skipped = f"; {unreadable} unreadable images were left out" if unreadable else ""
    return f"compared {compared}; worst differences: {worst or 'none'}{skipped}"
