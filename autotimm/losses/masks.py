"""The mask loss of Mask R-CNN (arXiv:1703.06870): each region answers for the mask of its own class only.

Equal to torchvision's ``maskrcnn_loss`` on the same regions (tests/losses/test_masks.py), but for the half pixel by
which its ``project_masks_on_boxes`` is off (``aligned=False``), and its number of samples, which depends on the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from autotimm.regions import MaskCrops


def mask_targets(
    masks: Sequence[MaskCrops],
    boxes: Sequence[Tensor],
    objects: Sequence[Tensor],
    bins: int,
    frame: tuple[int, int],
) -> Tensor:
    """What the head should have answered.

    Args:
        masks: per image, of all its objects.
        boxes: per image float32 ``[P, 4]`` xyxy in network-input pixels, inside the input.
        objects: per image int64 ``[P]``: the object that each region shows.
        bins: side of a mask.
        frame: height and width of the network input.

    Returns:
        float32 ``[sum of P, bins, bins]``: the part of each cell that the object covers.
    """
    crops = [
        image_masks.sample(image_boxes, index, bins, frame)
        for image_masks, image_boxes, index in zip(masks, boxes, objects, strict=True)
    ]
    return torch.cat(crops)


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy on the mask of each region's class, mean over all cells, in float32.

    Args:
        logits: ``[R, C, m, m]``, a mask for each class.
        labels: int64 ``[R]``.
        targets: float32 ``[R, m, m]`` in 0..1.

    Returns:
        A scalar; 0, and still part of the graph, where there are no regions.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if not len(logits):
            return logits.sum()
        own = logits[torch.arange(len(logits), device=logits.device), labels]
        return F.binary_cross_entropy_with_logits(own, targets)
