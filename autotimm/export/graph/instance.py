"""The instance graph: that of detection, then RoIAlign and the mask head for the K objects that it gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autotimm.export.graph.detection import DetectionGraph, DetectionSettings
from autotimm.models.instance_segmentor import InstanceSegmentor
from autotimm.models.masks.align import align_regions_portably
from autotimm.models.masks.head import MaskDetector


class InstanceGraph(DetectionGraph):
    """uint8 pixels in, final objects out, each with a mask over its box.

    The boxes are clipped to the network input, so that masks and what RoIAlign can see are of the same box.
    """

    network: MaskDetector
    far_sides: Tensor
    output_names = (*DetectionGraph.output_names, "masks")

    def __init__(self, model: InstanceSegmentor, settings: DetectionSettings) -> None:
        super().__init__(model, settings)
        height, width = model.preprocess.size
        self.register_buffer("far_sides", torch.tensor([width, height, width, height]).float(), persistent=False)
        self.region_strides, self.bins = model.region_strides, model.roi_pool_size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of DESIGN's table, then the candidates."""
        outputs, levels = self.network(self.normalize(images), with_levels=True)
        count, boxes, scores, labels, *candidates = self.detections(outputs)
        boxes = boxes.clamp(min=0).minimum(self.far_sides)
        masks = self.masks(levels[: len(self.region_strides)], boxes, labels)
        return count, boxes, scores, labels, masks, *candidates

    def masks(self, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """The mask of each object for its class; of rows without an object all zero.

        Args:
            levels: of the pyramid, that regions are taken from.
            boxes: float32 ``[N, K, 4]`` xyxy, inside the network input.
            labels: int32 ``[N, K]``, -1 where there is no object.

        Returns:
            float32 ``[N, K, m, m]`` in 0..1.
        """
        regions = align_regions_portably(levels, self.region_strides, boxes, self.bins).flatten(0, 1)
        logits: Tensor = self.network.mask_head(regions)
        classes = labels.flatten().long().clamp(min=0)
        rows = torch.arange(logits.shape[0], device=labels.device) * self.num_classes + classes
        own = logits.flatten(0, 1).index_select(0, rows)
        return torch.unflatten(own.sigmoid(), 0, (-1, boxes.shape[1])) * (labels >= 0)[:, :, None, None]
