"""How far an artifact may be from its model, by task and precision."""

from __future__ import annotations

from autotimm.runtime.manifest import Manifest, Task

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
    tolerance = FP32[manifest.task]
    if manifest.input_mode == "batch":
        return tolerance
    if not manifest.preprocess.antialias or manifest.preprocess.interpolation == "nearest":
        return {**tolerance, "grey_levels": 0.0}  # bit for bit
    return {**tolerance, **IMAGE[manifest.task], "grey_levels": 1.0}
