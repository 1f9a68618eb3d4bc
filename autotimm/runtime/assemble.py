"""From an artifact's output arrays to results in source pixels; training-time evaluation comes this way too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.drawing import Color
from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.manifest import Task
from autotimm.runtime.mask_pasting import paste_masks
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.results import Classification, Detections, Result
from autotimm.runtime.segmentation_results import Instances, SemanticMask


def assemble(
    task: Task,
    outputs: Mapping[str, NDArray[np.generic]],
    placements: Sequence[Placement],
    class_names: Sequence[str],
    *,
    threshold: float | None = None,
    mask_threshold: float = 0.5,
    palette: tuple[Color, ...] | None = None,
) -> list[Result]:
    """Turn a batch of outputs into one result an image.

    Args:
        task: which outputs to expect.
        outputs: the artifact's outputs by name, N images or more; what lies past the placements is padding.
        placements: where each image lies in the network input, one an image.
        class_names: one name a class.
        threshold: for multi-label classification: keep every label whose probability is at least this, instead of the
            artifact's k best.
        mask_threshold: for instance segmentation: a pixel belongs to an object where its probability is greater.
        palette: for semantic segmentation: RGB of each class, for drawings.

    Raises:
        ArtifactError: an output is missing, or a label has no name.
    """
    names = tuple(class_names)
    at = list(enumerate(placements))
    try:
        if task == "detection":
            return [_detections(outputs, index, placement, names) for index, placement in at]
        if task == "semantic_segmentation":
            return [_semantic_mask(outputs, index, placement, names, palette) for index, placement in at]
        if task == "instance_segmentation":
            return [_instances(outputs, index, placement, names, mask_threshold) for index, placement in at]
        return [_classification(outputs, index, placement, names, threshold) for index, placement in at]
    except KeyError as error:
        raise ArtifactError(f"a {task} artifact must have the output {error}, but has {', '.join(outputs)}") from error


def _detections(
    outputs: Mapping[str, NDArray[np.generic]], index: int, placement: Placement, names: tuple[str, ...]
) -> Detections:
    count = int(cast(Any, outputs["num_detections"][index, 0]))
    # Copies: a slice would keep the outputs of the whole batch alive as long as the result.
    boxes = placement.to_source(outputs["boxes"][index, :count].astype(np.float32))
    _clip(boxes, placement.source_size)
    return Detections(
        placement.source_size,
        names,
        boxes,
        outputs["scores"][index, :count].astype(np.float32),
        _named(outputs["labels"][index, :count].astype(np.int32), names),
    )


def _instances(
    outputs: Mapping[str, NDArray[np.generic]],
    index: int,
    placement: Placement,
    names: tuple[str, ...],
    mask_threshold: float,
) -> Instances:
    found = _detections(outputs, index, placement, names)
    # The mask lies over the box as the network saw it, of which a part may be padding, outside the image.
    boxes = placement.to_source(outputs["boxes"][index, : len(found)].astype(np.float32))
    masks = outputs["masks"][index, : len(found)].astype(np.float32)
    regions = paste_masks(masks, boxes, placement.source_size, mask_threshold)
    return Instances(placement.source_size, names, found.boxes, found.scores, found.labels, regions)


def _semantic_mask(
    outputs: Mapping[str, NDArray[np.generic]],
    index: int,
    placement: Placement,
    names: tuple[str, ...],
    palette: tuple[Color, ...] | None,
) -> SemanticMask:
    """Each source pixel takes the class of the network pixel in which its centre lies; beyond what a crop keeps, that
    of the nearest one, since the network has not seen it.
    """
    ids = _named(cast("NDArray[np.int32]", outputs["mask"][index]), names)
    mask: NDArray[Any] = ids.astype(np.uint8 if len(names) <= 256 else np.int32, copy=False)
    if placement.source_size == placement.resized_size == mask.shape:  # the graph has done it
        return SemanticMask(placement.source_size, names, mask.copy(), palette)
    rows, columns = (
        _nearest(source, resized, offset, side)
        for source, resized, offset, side in zip(
            placement.source_size, placement.resized_size, placement.offset, mask.shape, strict=True
        )
    )
    # The smaller intermediate first; rows are copied whole, which is fast.
    if len(rows) < mask.shape[0]:
        mask = mask.take(rows, axis=0).take(columns, axis=1)
    else:
        mask = mask.take(columns, axis=1).take(rows, axis=0)
    return SemanticMask(placement.source_size, names, mask, palette)


def _nearest(source: int, resized: int, offset: int, side: int) -> NDArray[np.int64]:
    """For each of ``source`` pixels, the pixel of a network input of ``side`` pixels that shows its centre."""
    # In whole numbers: floor((pixel + 1/2) * resized / source), exact where the centre falls on a border.
    shown: NDArray[np.int64] = (2 * np.arange(source, dtype=np.int64) + 1) * resized // (2 * source) + offset
    return shown.clip(max(0, offset), min(side, offset + resized) - 1)


def _clip(boxes: NDArray[np.float32], size: tuple[int, int]) -> None:
    """Clip xyxy boxes to an image of this ``(height, width)``, in place."""
    height, width = size
    np.maximum(boxes, 0, out=boxes)
    np.minimum(boxes, np.array([width, height, width, height], np.float32), out=boxes)


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
