"""From an artifact's output arrays to results in source pixels; training-time evaluation comes this way too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.manifest import Task
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.results import Classification, Detections, Result


def assemble(
    task: Task,
    outputs: Mapping[str, NDArray[np.generic]],
    placements: Sequence[Placement],
    class_names: Sequence[str],
    *,
    threshold: float | None = None,
) -> list[Result]:
    """Turn a batch of outputs into one result an image.

    Args:
        task: which outputs to expect.
        outputs: the artifact's outputs by name, N images or more; what lies past the placements is padding.
        placements: where each image lies in the network input, one an image.
        class_names: one name a class.
        threshold: for multi-label classification: keep every label whose probability is at least this, instead of the
            artifact's k best.

    Raises:
        ArtifactError: an output is missing, a label has no name, or this version cannot assemble the task.
    """
    names = tuple(class_names)
    try:
        if task == "detection":
            return [_detections(outputs, index, placement, names) for index, placement in enumerate(placements)]
        if task == "classification":
            return [
                _classification(outputs, index, placement, names, threshold)
                for index, placement in enumerate(placements)
            ]
    except KeyError as error:
        raise ArtifactError(f"a {task} artifact must have the output {error}, but has {', '.join(outputs)}") from error
    raise ArtifactError(f"results of {task} need a newer version: pip install --upgrade autotimm-deploy")


def _detections(
    outputs: Mapping[str, NDArray[np.generic]], index: int, placement: Placement, names: tuple[str, ...]
) -> Detections:
    count = int(cast(Any, outputs["num_detections"][index, 0]))
    # Copies: a slice would keep the outputs of the whole batch alive as long as the result.
    boxes = placement.to_source(outputs["boxes"][index, :count].astype(np.float32))
    height, width = placement.source_size
    np.maximum(boxes, 0, out=boxes)
    np.minimum(boxes, np.array([width, height, width, height], np.float32), out=boxes)
    return Detections(
        placement.source_size,
        names,
        boxes,
        outputs["scores"][index, :count].astype(np.float32),
        _named(outputs["labels"][index, :count].astype(np.int32), names),
    )


def _classification(
    outputs: Mapping[str, NDArray[np.generic]],
    index: int,
    placement: Placement,
    names: tuple[str, ...],
    threshold: float | None,
) -> Classification:
    probabilities = outputs["probabilities"][index].astype(np.float32)
    if threshold is None:
        scores = outputs["scores"][index].astype(np.float32)
        labels = _named(outputs["labels"][index].astype(np.int32), names)
    else:
        best_first = np.argsort(-probabilities, kind="stable")
        labels = best_first[probabilities[best_first] >= threshold].astype(np.int32)
        scores = probabilities[labels]
    return Classification(placement.source_size, names, probabilities, scores, labels)


def _named(labels: NDArray[np.int32], names: tuple[str, ...]) -> NDArray[np.int32]:
    """The labels, provided that each is the index of a name."""
    if labels.size and not (labels.min() >= 0 and labels.max() < len(names)):
        raise ArtifactError(
            f"the artifact gives labels {labels.min()}..{labels.max()}, but its manifest names {len(names)} classes; "
            "export the model again"
        )
    return labels
