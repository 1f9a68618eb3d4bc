"""The classification graph: pixels to probabilities and the best classes."""

from __future__ import annotations

from torch import Tensor

from autotimm.export.graph.contract import ExportGraph
from autotimm.models.classifier import ImageClassifier


class ClassificationGraph(ExportGraph):
    """uint8 pixels in, ``probabilities``, ``scores`` and ``labels`` out."""

    output_names = ("probabilities", "scores", "labels")

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.normalize, self.network = model.normalize, model.network
        self.best_classes = model.best_classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The parts of the model's own inference: there is nothing that a graph must do otherwise."""
        outputs = self.best_classes(self.network(self.normalize(images)))
        return tuple(outputs[name] for name in self.output_names)
