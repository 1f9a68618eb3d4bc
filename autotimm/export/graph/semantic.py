"""The segmentation graph: pixels to a class for each."""

from __future__ import annotations

from torch import Tensor

from autotimm.export.graph.contract import ExportGraph
from autotimm.models.semantic.segmentor import SemanticSegmentor


class SemanticGraph(ExportGraph):
    """uint8 pixels in, ``mask`` out; inside, the ``logits`` at the size in which the head gives them."""

    output_names = ("mask",)
    internal_names = ("logits",)

    def __init__(self, model: SemanticSegmentor) -> None:
        super().__init__()
        self.normalize, self.network = model.normalize, model.network
        self.upsample, self.as_mask = model.upsample, model.as_mask

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The parts of the model's own inference: there is nothing that a graph must do otherwise."""
        classes, logits = self.classes(images)
        return self.as_mask(classes), logits

    def classes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class ids as int64 ``[N, H, W]``, and the logits."""
        logits = self.network(self.normalize(images)).logits
        return self.upsample(logits, images.shape[1:3]).argmax(dim=1), logits
