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
        self.upsample, self.best_classes = model.upsample, model.best_classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The parts of the model's own inference: there is nothing that a graph must do otherwise."""
        logits = self.network(self.normalize(images)).logits
        return self.best_classes(self.upsample(logits, images.shape[1:3])), logits
