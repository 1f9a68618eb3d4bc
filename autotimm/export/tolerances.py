"""How far an artifact may be from its model, by task and precision."""

from __future__ import annotations

from dataclasses import dataclass

from autotimm.runtime.manifest import Manifest, Precision, Task

_BOXES = {
    "box_px": 0.3,
    "score": 1e-3,
    "unmatched_share": 0.01,
    "borderline_share": 0.05,
    "candidate_box_px": 0.3,
    "candidate_score": 1e-3,
    "candidate_label_share": 0.01,
}
FP32: dict[Task, dict[str, float]] = {
    "classification": {"probability": 1e-4, "relative_probability": 1e-3, "label_errors": 0.0},
    "detection": _BOXES,
    "instance_segmentation": {**_BOXES, "mask_share": 0.01, "mask_probability": 1e-2},
    "semantic_segmentation": {"pixel_share": 1e-3, "relative_logit": 1e-3},
}
"""Largest differences allowed in fp32. The boxes and scores are what official YOLOX exports are held to; observed
differences are about a hundred times smaller."""

_BOXES_FP16 = {"certain_unmatched_share": 0.1, "candidate_score_share": 0.1}
FP16: dict[Task, dict[str, float]] = {
    "classification": {"probability": 0.02, "relative_probability": 0.05, "label_errors": 0.0},
    "detection": _BOXES_FP16,
    "instance_segmentation": {**_BOXES_FP16, "mask_cell_share": 0.02},
    "semantic_segmentation": {"pixel_share": 0.02, "relative_logit": 0.02},
}
"""Half precision has 11 bits, so that single boxes move by pixels: the width is the exponential of a logit. YOLOX-nano
on 16 photos of COCO: 4.5 px and a score of .012 at worst. So shares are held to a limit, and the worst is recorded;
of masks the share of the cells that are on the other side of one half."""
_BOXES_INT8 = {"certain_unmatched_share": 0.15, "candidate_score_share": 0.3}
INT8: dict[Task, dict[str, float]] = {
    "classification": {"probability_share": 0.5, "labels_apart_share": 0.1, "label_errors": 0.0},
    "detection": _BOXES_INT8,
    "instance_segmentation": {**_BOXES_INT8, "mask_cell_share": 0.1},
    "semantic_segmentation": {"pixel_share": 0.2, "relative_logit": 0.5},
}
"""Eight bits move every number, so that this finds what is broken and not what is a little worse: that is for
``--max-drop``. YOLOX-nano on 16 photos of COCO: 1.8 % of the certain detections without a partner, a box 48 px off and
a score .31 at worst (the export of docs/precision.md with ``--max-drop 0.01``)."""
_BY_PRECISION: dict[Precision, dict[Task, dict[str, float]]] = {"fp32": FP32, "fp16": FP16, "int8": INT8}


@dataclass(frozen=True)
class Matching:
    """When two results are about the same thing, and which are too near a threshold to say anything."""

    iou: float
    """Boxes of one class that overlap this much are of the same object."""
    box_px: float
    """So are those whose sides lie no further apart, in network-input pixels."""
    score: float
    """Scores that lie this near to a threshold, or to one another, may end up on either side."""


_MATCHING: dict[Precision, Matching] = {
    "fp32": Matching(0.9, 0.3, 1e-3),
    "fp16": Matching(0.8, 1.0, 0.05),
    "int8": Matching(0.5, 4.0, 0.15),
}


IMAGE: dict[Task, dict[str, float]] = {
    "classification": {"probability": 5e-3, "relative_probability": 1e-2},
    "detection": {"box_px": 0.5, "score": 5e-3},
    "instance_segmentation": {"box_px": 0.5, "score": 5e-3},
    "semantic_segmentation": {"pixel_share": 2e-3},
}
"""The same for results of an artifact that resizes with an antialiased filter itself, where a few pixels in a thousand
are one grey level apart from the host's (:mod:`autotimm.benchmarks.image_input`). What the network makes of its own
pixels is still compared as above."""


def tolerance_of(manifest: Manifest) -> dict[str, float]:
    """The largest differences allowed to an artifact, by the names of :class:`autotimm.export.comparison.Differences`.

    Args:
        manifest: of the artifact: its task, precision and input mode decide.
    """
    tolerance = _BY_PRECISION[manifest.precision][manifest.task]
    if manifest.input_mode == "batch":
        return tolerance
    if not manifest.preprocess.antialias or manifest.preprocess.interpolation == "nearest":
        return {**tolerance, "grey_levels": 0.0}  # bit for bit
    wider = {name: max(tolerance[name], limit) for name, limit in IMAGE[manifest.task].items() if name in tolerance}
    return {**tolerance, **wider, "grey_levels": 1.0}


def matching_of(manifest: Manifest) -> Matching:
    """How results of an artifact are matched with those of its reference."""
    return _MATCHING[manifest.precision]
