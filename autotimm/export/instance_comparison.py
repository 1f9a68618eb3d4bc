"""How far the masks of objects lie apart: at source size, and as the mask head gives them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autotimm.export.comparison import Differences, iou_matrix, match
from autotimm.runtime.predictor import Predictor
from autotimm.runtime.segmentation_results import Instances

SAME_MASK_IOU = 0.99
"""Two masks of one object that overlap less are not the same."""
STRAY_PIXELS = 1
"""Unless they differ in no more than these: of an object of 50 pixels one that rounding moves is already too much."""

Outputs = Mapping[str, NDArray[np.generic]]


def compare_masks_of_objects(
    differences: Differences, reference: Instances, artifact: Instances, pairs: NDArray[np.intp]
) -> None:
    """Masks at source size of the objects that were matched by class and box.

    Args:
        differences: counts them as ``masks``, those that overlap too little as ``masks_apart``.
        reference: of one image.
        artifact: of the same image.
        pairs: ``[pairs, 2]`` indices into the two.
    """
    matched = [(reference.regions[row], artifact.regions[column]) for row, column in pairs.tolist()]
    overlaps = np.array([one.iou(other) for one, other in matched])
    # |A xor B| from |A| + |B| = |A or B| + |A and B| and the IoU
    stray = np.array([one.area + other.area for one, other in matched]) * (1 - overlaps) / (1 + overlaps)
    differences.compared["masks"] += len(pairs)
    differences.compared["masks_apart"] += int(((overlaps < SAME_MASK_IOU) & (stray > STRAY_PIXELS + 0.5)).sum())
    differences.note("mask_iou_loss", 1.0 - overlaps)


def compare_mask_probabilities(
    differences: Differences,
    reference: Predictor,
    artifact: Predictor,
    image: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    same_object_iou: float,
) -> None:
    """The mask head's own answers for one image: of the same objects, cell by cell.

    Args:
        differences: to note them in.
        reference: runs on ``pixels``.
        artifact: runs on ``image``.
        image: what the artifact takes.
        pixels: the network input ``[H, W, 3]`` that the artifact makes of it; or the image, where the reference takes
            that.
        same_object_iou: objects of one class whose boxes overlap this much are one.
    """
    expected, actual = _objects(reference, pixels), _objects(artifact, image)
    same_class = expected["labels"][:, None] == actual["labels"][None, :]
    overlaps = iou_matrix(expected["boxes"], actual["boxes"])
    pairs = match(np.where(same_class, overlaps, 0.0), same_object_iou)
    differences.compared["mask_cells"] += len(pairs) * int(np.prod(expected["masks"].shape[1:]))
    differences.note("mask_probability", expected["masks"][pairs[:, 0]] - actual["masks"][pairs[:, 1]])


def _objects(predictor: Predictor, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Boxes in network-input pixels, labels and masks of the first image of a run, without the unused rows."""
    outputs = predictor.run(predictor.as_input([pixels]))
    count = int(outputs["num_detections"].ravel()[0])
    found = {name: outputs[name][0, :count].astype(np.float32) for name in ("boxes", "labels", "masks")}
    if predictor.takes_image:
        placement = predictor.manifest.preprocess.place(pixels.shape[0], pixels.shape[1])
        found["boxes"] = placement.to_input(found["boxes"])
    return found
