"""Comparing what enters NMS: the candidates inside an artifact with those of its reference, one by one.

Where a model finds little on the images, this is what there is to compare; and a graph that loses or misplaces
candidates shows here even if NMS hides it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.export.comparison import Differences
from autotimm.export.graph.detection import DetectionGraph
from autotimm.export.internals import internal_values
from autotimm.models.detection import DetectionModel
from autotimm.runtime.artifact import read_manifest

_MOST_CLASSES = 1 << 20
"""More than any model has: a location and a class in one number."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of one image, best first."""

    index: NDArray[np.int64]
    """``[P]`` locations, over all levels; with several labels a location, one may be there several times."""
    boxes: NDArray[np.float32]
    """``[P, 4]`` xyxy in network-input pixels."""
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


CandidateComparison = Callable[[Differences, NDArray[np.uint8], Candidates], None]
"""Takes the differences to note, the network input ``[H, W, 3]``, and the artifact's candidates on it."""


def candidates_of(artifact: Path) -> Callable[[NDArray[np.uint8]], Candidates]:
    """A function from prepared pixels ``[H, W, 3]``, or an image, to the candidates inside a detection artifact.

    These are the values before thresholds and NMS.
    """
    values = internal_values(artifact, DetectionGraph.internal_names)

    def run(pixels: NDArray[np.uint8]) -> Candidates:
        index, boxes, scores, labels = (cast(Any, value) for value in values(pixels).values())
        real = len(index)  # a small input has fewer locations than candidates; the rest is padding
        return Candidates(index, boxes[:real], scores[:real], labels[:real])

    return run


def against_model(model: DetectionModel) -> CandidateComparison:
    """Compare with a PyTorch model's own decoding of every location."""

    def compare(differences: Differences, pixels: NDArray[np.uint8], found: Candidates) -> None:
        with torch.inference_mode():
            raw = model.network(model.normalize(torch.from_numpy(pixels[None]).to(model.device)))
            boxes, scores, _ = (value[0].cpu() for value in model.decode(raw))
            if model.multi_label_candidates:
                scores = model.score(raw.objectness, raw.classes)[0].flatten().cpu()
            index = torch.from_numpy(found.index)
            # Of the artifact's label: a wrong one shows, a near-tie between two classes does not.
            class_logits = raw.classes[0].cpu()[torch.from_numpy(found.labels), index]
            label_scores = model.score(raw.objectness[0, 0].cpu()[index], class_logits)
        differences.compared["candidates"] += len(index)
        differences.note("candidate_score", found.scores - label_scores.numpy())
        # The selection itself: by rank, both lists of scores must agree, whatever locations they name.
        _note_ranked(differences, found.scores, scores.topk(len(index)).values.numpy())
        _note_boxes(differences, found.boxes, boxes[index].numpy(), pixels)

    return compare


def against_artifact(path: Path) -> CandidateComparison:
    """Compare with the candidates of another artifact of the same model; each may have another number of them."""
    run = candidates_of(path)
    several = bool(read_manifest(path).postprocessing.get("multi_label"))

    def named(candidates: Candidates) -> NDArray[np.int64]:
        """By which the two sets of candidates are paired: the location, or location and class."""
        return candidates.index * _MOST_CLASSES + candidates.labels if several else candidates.index

    def compare(differences: Differences, pixels: NDArray[np.uint8], found: Candidates) -> None:
        theirs = run(pixels)
        count = min(len(found.index), len(theirs.index))
        _, ours_at, theirs_at = np.intersect1d(named(found), named(theirs), return_indices=True)
        differences.compared["candidates"] += len(ours_at)
        _note_ranked(differences, found.scores[:count], theirs.scores[:count])
        differences.note("candidate_score", found.scores[ours_at] - theirs.scores[theirs_at])
        _note_boxes(differences, found.boxes[ours_at], theirs.boxes[theirs_at], pixels)
        # Two engines may differ on a near-tie between classes, but not on one candidate in a hundred.
        differences.note("candidate_label_share", float(np.mean(found.labels[ours_at] != theirs.labels[theirs_at])))
        if several:  # then a wrong label is a candidate without a partner
            differences.note("candidate_label_share", 1.0 - len(ours_at) / max(1, count))

    return compare


def _note_ranked(differences: Differences, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Scores by rank: the largest difference; and the sum of all, to be set against that of the scores in the end.

    Over all images: one that shows nothing has only scores near 0, of which a trifle is a large share.
    """
    differences.note("candidate_score", found - expected)
    differences.sums["candidate_score_gap"] += float(np.abs(found - expected).sum())
    differences.sums["candidate_score"] += float(expected.sum())


def _note_boxes(
    differences: Differences, found: NDArray[np.float32], expected: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> None:
    """In pixels; of a box larger than the network input, in pixels of one as large as that.

    The sides of YOLOX's boxes are exponentials, and where the network sees nothing they can be of any size.
    """
    sides = (expected[:, 2:] - expected[:, :2]).max(axis=1, keepdims=True)
    differences.note("candidate_box_px", (found - expected) / np.maximum(1.0, sides / max(pixels.shape[:2])))
