"""Proof that an artifact gives the answers of the model it was made from, on real images, through the runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autotimm.export.comparison import Differences, compare_classifications, compare_detections, compare_masks
from autotimm.export.image_comparison import network_pixels
from autotimm.export.instance_comparison import compare_mask_probabilities, compare_masks_of_objects
from autotimm.export.internals import is_inspectable
from autotimm.export.tolerances import matching_of, tolerance_of
from autotimm.runtime.artifact import load
from autotimm.runtime.errors import ImageError, VerificationError
from autotimm.runtime.manifest import Manifest, Task, Verification
from autotimm.runtime.pictures import Pictures
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.results import Classification, Detections
from autotimm.runtime.segmentation_results import Instances, SemanticMask

if TYPE_CHECKING:  # they need torch, which is not there where an engine is verified
    from autotimm.export.candidates import CandidateComparison
    from autotimm.export.logits import LogitsComparison


def verify_artifact(
    artifact: str | Path,
    reference: Predictor,
    *,
    pictures: Pictures,
    compare_candidates: CandidateComparison | None = None,
    compare_logits: LogitsComparison | None = None,
    artifact_predictor: Predictor | None = None,
) -> Verification:
    """Compare an artifact with a reference, image by image.

    Args:
        artifact: the artifact file.
        reference: a predictor of the model it was made from (or of another artifact of it).
        pictures: the images to compare on; see :func:`autotimm.runtime.pictures.choose_pictures`.
        compare_candidates: detection: compares what enters NMS as well.
        compare_logits: semantic segmentation: compares what the best class is chosen by as well.
        artifact_predictor: a predictor of the artifact, where it is open already; it stays open.

    Returns:
        The record, with status ``passed`` or ``failed``.

    Raises:
        VerificationError: the two are not the same model, or there was nothing to compare.
    """
    differences = Differences()
    with nullcontext(artifact_predictor) if artifact_predictor is not None else load(artifact) as opened:
        check_same_model(Path(artifact), opened.manifest, reference.manifest)
        # what a multi-label graph lists is for consumers without this runtime, which goes by the probabilities
        predictor, reference = (Predictor(one.backend, one.manifest, lists_best=True) for one in (opened, reference))
        tolerance = tolerance_of(predictor.manifest)
        # Two at a time, so that a graph with a free batch dimension is also seen with more than one image.
        answers = predictor.predict(pictures.images, batch_size=_two_if_free(predictor), on_error="return")
        expected = reference.predict(pictures.images, batch_size=_two_if_free(reference), on_error="return")
        for ours, theirs in zip(answers, expected, strict=True):
            _compare(differences, theirs, ours, predictor.manifest)
        readable = [index for index, answer in enumerate(expected) if not isinstance(answer, ImageError)]
        given = _Inputs(predictor, [pictures.images[index] for index in readable])
        prepared = list(network_pixels(differences, Path(artifact), predictor, given))
        if predictor.manifest.task == "instance_segmentation":
            same_object = matching_of(predictor.manifest).iou
            # An engine does not tell what its network was given; another artifact then makes its own of the image.
            from_images = reference.takes_image and not is_inspectable(Path(artifact))
            for image, pixels in zip(given, prepared, strict=True):
                seen = image if from_images else pixels
                compare_mask_probabilities(differences, reference, predictor, image, seen, same_object)
    if compare_candidates is not None:
        from autotimm.export.candidates import candidates_of

        candidates = candidates_of(Path(artifact))
        for image, pixels in zip(given, prepared, strict=True):
            compare_candidates(differences, pixels, candidates(image))
    if compare_logits is not None:
        from autotimm.export.logits import logits_of

        logits = logits_of(Path(artifact))
        for image, pixels in zip(given, prepared, strict=True):
            compare_logits(differences, pixels, logits(image))
    _check_something_was_compared(differences, Path(artifact), len(answers), reference.manifest.task)
    _note_shares(differences)
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


@dataclass(frozen=True)
class _Inputs:
    """What a run of an artifact takes, image by image: those of any size are not all held at once."""

    predictor: Predictor
    images: Sequence[Path | NDArray[np.uint8]]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.predictor.prepare(image)[0] for image in self.images)


def _check_something_was_compared(differences: Differences, artifact: Path, images: int, task: Task) -> None:
    """A verification with nothing to compare is not a pass."""
    counts = differences.compared
    if not counts["images"]:
        raise VerificationError(f"{artifact}: none of the {images} images could be read, so nothing was compared")
    if not counts["probabilities"] + counts["detections"] + counts["candidates"] + counts["pixels"]:
        raise VerificationError(
            f"{artifact}: nothing was found on the {counts['images']} images, so nothing was compared; "
            "give images of what the model knows"
        )
    if task == "instance_segmentation" and not counts["masks"] + counts["unmatched"]:
        raise VerificationError(
            f"{artifact}: no object was found on the {counts['images']} images, so no mask was compared; "
            "give images of what the model knows, or export with a lower --score-threshold"
        )
    if task == "semantic_segmentation" and not counts["logits"] and counts["masks_of_one_class"] == counts["images"]:
        raise VerificationError(
            f"{artifact}: every mask is of one class all over, which proves little; give images of what the model knows"
        )


def _note_shares(differences: Differences) -> None:
    """Detections without a partner, over all; a borderline one in each image is no cause for doubt."""
    counts, sums = differences.compared, differences.sums
    if "labels_apart" in counts:
        differences.note("labels_apart_share", counts["labels_apart"] / max(1, counts["images"]))
        differences.note("probability_share", sums["probability_gap"] / max(sums["probability"], 1e-6))
    if counts["candidates"]:
        gap, scores = sums["candidate_score_gap"], sums["candidate_score"]
        differences.note("candidate_score_share", gap / max(scores, 1e-6))
    if "detections" not in counts:
        return
    detections = max(1, counts["detections"])
    differences.note("unmatched_share", counts["unmatched"] / detections)
    differences.note("borderline_share", max(0, counts["borderline"] - counts["images"]) / detections)
    if counts["certain"]:
        differences.note("certain_unmatched_share", counts["unmatched"] / counts["certain"])
    if counts["mask_cells"]:
        differences.note("mask_cell_share", counts["mask_cells_apart"] / counts["mask_cells"])
    if counts["masks"]:
        differences.note("mask_share", counts["masks_apart"] / counts["masks"])


def _two_if_free(predictor: Predictor) -> int | None:
    if predictor.fixed_batch is not None:
        return None
    engine = predictor.manifest.engine
    if engine is None:
        return 2
    return max(min(2, part.maximum[0]) for part in engine.profile.values())


_IN_WORDS: dict[Task, str] = {
    "classification": "a classifier",
    "detection": "a detector",
    "semantic_segmentation": "a semantic segmentor",
    "instance_segmentation": "an instance segmentor",
}


def check_same_task(artifact: Path, ours: Task, theirs: Task) -> None:
    """Refuse to compare with a model of another task.

    Raises:
        VerificationError: naming both tasks.
    """
    if ours != theirs:
        raise VerificationError(
            f"{artifact} was not made from this model: the artifact is {_IN_WORDS[ours]}, the model {_IN_WORDS[theirs]}"
        )


def check_same_model(artifact: Path, ours: Manifest, theirs: Manifest) -> None:
    """Refuse to compare what cannot be equal; the difference is named."""
    check_same_task(artifact, ours.task, theirs.task)
    for name in ("class_names", "preprocess"):
        own, other = getattr(ours, name), getattr(theirs, name)
        if own != other:
            raise VerificationError(
                f"{artifact} was not made from this model: its {name} is {str(own)[:160]}, "
                f"the model's {str(other)[:160]}"
            )


def _compare(differences: Differences, theirs: object, ours: object, manifest: Manifest) -> None:
    if isinstance(theirs, ImageError):
        return
    if isinstance(theirs, Classification) and isinstance(ours, Classification):
        compare_classifications(differences, theirs, ours, matching_of(manifest))
    elif isinstance(theirs, Detections) and isinstance(ours, Detections):
        _compare_boxes(differences, theirs, ours, manifest)
    elif isinstance(theirs, Instances) and isinstance(ours, Instances):
        pairs = _compare_boxes(differences, theirs, ours, manifest)
        compare_masks_of_objects(differences, theirs, ours, pairs)
    elif isinstance(theirs, SemanticMask) and isinstance(ours, SemanticMask):
        compare_masks(differences, theirs, ours)


def _compare_boxes(
    differences: Differences,
    theirs: Detections | Instances,
    ours: Detections | Instances,
    manifest: Manifest,
) -> NDArray[np.intp]:
    return compare_detections(
        differences,
        theirs,
        ours,
        manifest.preprocess.place(*theirs.image_size),
        thresholds=manifest.thresholds,
        matching=matching_of(manifest),
        across_classes=bool(manifest.postprocessing.get("class_agnostic_nms")),
    )


def _in_words(differences: Differences, unreadable: int) -> str:
    compared = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in differences.compared.items() if count)
    worst = ", ".join(f"{name} {value:.2g}" for name, value in differences.worst.items())
    skipped = f"; {unreadable} unreadable images were left out" if unreadable else ""
    return f"compared {compared}; worst differences: {worst or 'none'}{skipped}"
