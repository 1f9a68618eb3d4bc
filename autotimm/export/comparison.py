"""How far two sets of results lie apart: what verification measures."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotimm.export.tolerances import Matching
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.results import Classification, Detections
from autotimm.runtime.segmentation_results import Instances, SemanticMask

BORDERLINE_IOU = 0.005
"""NMS may decide either way about a pair whose IoU lies this close to its threshold."""


@dataclass
class Differences:
    """What was compared, and the largest difference of each kind."""

    compared: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Over all images, of what a share is made of at the end."""

    def note(self, name: str, values: NDArray[np.floating] | float) -> None:
        """Take the largest of ``values`` into account; NaN counts as infinitely wrong."""
        array = np.asarray(values, dtype=np.float64).ravel()
        if array.size:
            largest = float(np.where(np.isnan(array), np.inf, np.abs(array)).max())
            self.worst[name] = max(self.worst.get(name, 0.0), largest)

    def exceeding(self, tolerance: dict[str, float]) -> list[str]:
        """One phrase for every difference that is larger than its tolerance."""
        return [
            f"{name} {self.worst[name]:.3g} exceeds {allowed:.3g}"
            for name, allowed in tolerance.items()
            if self.worst.get(name, 0.0) > allowed
        ]


def compare_classifications(
    differences: Differences, reference: Classification, artifact: Classification, matching: Matching
) -> None:
    """Probabilities of all classes, relative to the largest too, since random weights give tiny ones; and the listed
    best classes, which are what a user reads.
    """
    expected, actual = reference.probabilities, artifact.probabilities
    gap = np.abs(expected - actual)
    differences.compared["images"] += 1
    differences.compared["probabilities"] += len(expected)
    differences.note("probability", gap)
    differences.note("relative_probability", gap / expected.max())
    lead = float(expected.max() - expected[actual.argmax()])  # of the reference's best class over the artifact's
    differences.compared["labels_apart"] += int(lead > matching.score)
    # What a classifier says is how far it goes from "could be any": without that, constant answers would pass.
    any_class = 1 / len(expected) if abs(expected.sum() - 1) < 1e-3 and len(expected) > 1 else 0.5
    differences.sums["probability"] += float(np.abs(expected - any_class).sum())
    differences.sums["probability_gap"] += float(gap.sum())
    labels = artifact.labels
    in_range = (labels >= 0) & (labels < len(expected))
    differences.note("label_errors", float(len(labels) - len(set(labels[in_range].tolist()))))
    listed = labels[in_range]
    differences.note("probability", artifact.scores[in_range] - expected[listed])
    # By rank: that they are the best ones, near-ties in any order.
    differences.note("probability", artifact.scores - np.sort(expected)[::-1][: len(artifact.scores)])
    differences.note("label_errors", float(abs(len(labels) - len(reference.labels))))


def compare_detections(
    differences: Differences,
    reference: Detections | Instances,
    artifact: Detections | Instances,
    placement: Placement,
    *,
    thresholds: dict[str, float],
    matching: Matching,
    across_classes: bool = False,
) -> NDArray[np.intp]:
    """Match the detections of one image by class and IoU, then compare boxes (in network-input pixels) and scores.

    A detection without a partner counts as unmatched, unless it stands so close to a threshold that rounding decides:
    of the score, or of the IoU with a box that may suppress it, one of its class or (``across_classes``) of any.

    Returns:
        ``[pairs, 2]``: which detection of the reference is which of the artifact.
    """
    expected = placement.to_input(reference.boxes)
    actual = placement.to_input(artifact.boxes)
    same_class = reference.labels[:, None] == artifact.labels[None, :]
    apart = np.abs(expected[:, None, :] - actual[None, :, :]).max(axis=2)
    # Boxes that lie outside the image are clipped to lines, which overlap nothing: those match by their corners.
    similarity = np.where(apart <= matching.box_px, 1.0, iou_matrix(expected, actual))
    pairs = match(np.where(same_class, similarity, 0.0), matching.iou)
    rows, columns = pairs[:, 0], pairs[:, 1]
    differences.compared["images"] += 1
    differences.compared["detections"] += len(reference)
    differences.note("box_px", expected[rows] - actual[columns])
    differences.note("score", reference.scores[rows] - artifact.scores[columns])
    sides = ((reference, expected, rows), (artifact, actual, columns))
    everything = np.concatenate([expected, actual])
    labels = np.concatenate([reference.labels, artifact.labels])
    for result, boxes, matched in sides:
        lonely = np.setdiff1d(np.arange(len(result)), matched)
        cutoffs = [thresholds["score"]]
        if len(result) >= thresholds["max_detections"]:
            cutoffs.append(float(result.scores.min()))
        at_cutoff = np.min([np.abs(result.scores - cutoff) for cutoff in cutoffs], axis=0) <= matching.score
        near_cutoff = at_cutoff[lonely]
        near_iou = np.abs(iou_matrix(boxes[lonely], everything) - thresholds["iou"]) <= BORDERLINE_IOU
        rivals = across_classes | (result.labels[lonely][:, None] == labels[None, :])
        near_iou = (near_iou & rivals).any(axis=1)
        differences.compared["unmatched"] += int((~near_cutoff & ~near_iou).sum())
        differences.compared["certain"] += int((~at_cutoff).sum())
        differences.compared["borderline"] += int((near_cutoff | near_iou).sum())
    return pairs


def compare_masks(differences: Differences, reference: SemanticMask, artifact: SemanticMask) -> None:
    """The share of the pixels of one image, at source size, that have another class."""
    differences.compared["images"] += 1
    differences.compared["pixels"] += artifact.mask.size
    apart = float(np.mean(reference.mask != artifact.mask))
    differences.compared["masks_of_one_class"] += int(not apart and np.ptp(reference.mask) == 0)
    differences.note("pixel_share", apart)


def iou_matrix(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of every pair of xyxy boxes: ``[n, 4]`` and ``[m, 4]`` to ``[n, m]``."""
    a, b = first[:, None, :].astype(np.float64), second[None, :, :].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = sides[..., 0] * sides[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    union = areas[0] + areas[1] - intersection
    return np.where(union > 0, intersection / np.where(union > 0, union, 1.0), 0.0)


def match(similarity: NDArray[np.float64], least: float) -> NDArray[np.intp]:
    """Pair rows with columns, the most similar first, each at most once: ``[pairs, 2]``."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(similarity >= least)
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for index in np.argsort(-similarity[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((row, column))
    return np.array(sorted(pairs), dtype=np.intp).reshape(-1, 2)
