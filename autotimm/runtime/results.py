"""What ``predict`` returns: frozen dataclasses of numpy arrays in source-image pixels, with class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.drawing import draw_boxes, draw_caption
from autotimm.runtime.result_formats import as_dict, coco_rows, named, supervision_package
from autotimm.runtime.segmentation_results import Instances, SemanticMask

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Classification:
    """The classes of one image, best first."""

    image_size: tuple[int, int]
    """``(height, width)`` of the source image."""
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """``[C]``, one for every class in the order of ``class_names``."""
    scores: NDArray[np.float32]
    """``[k]``: the k best probabilities; for a multi-label model those at or above its threshold."""
    labels: NDArray[np.int32]
    """``[k]`` class indices that go with ``scores``."""

    task = "classification"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Class names that go with ``labels``."""
        return [self.class_names[label] for label in self.labels]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the size of the image and one prediction per label."""
        return as_dict(self, named(self.labels, self.scores, self.class_names))

    def to_supervision(self) -> supervision.Classifications:
        """As ``supervision.Classifications`` (needs the package supervision)."""
        converted = supervision_package().Classifications(class_id=self.labels.astype(int), confidence=self.scores)
        return cast("supervision.Classifications", converted)

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy of ``image`` with the best classes written on it."""
        return draw_caption(image, [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)])


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one image, best first."""

    image_size: tuple[int, int]
    """``(height, width)`` of the source image."""
    class_names: tuple[str, ...]
    boxes: NDArray[np.float32]
    """``[n, 4]`` xyxy in source pixels, clipped to the image."""
    scores: NDArray[np.float32]
    """``[n]``"""
    labels: NDArray[np.int32]
    """``[n]`` class indices."""

    task = "detection"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Class names that go with ``labels``."""
        return [self.class_names[label] for label in self.labels]

    def above(self, score: float) -> Detections:
        """Only the detections whose score is at least ``score``."""
        kept = self.scores >= score
        return Detections(self.image_size, self.class_names, self.boxes[kept], self.scores[kept], self.labels[kept])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the size of the image and one prediction per box."""
        predictions = named(self.labels, self.scores, self.class_names)
        for prediction, box in zip(predictions, self.boxes, strict=True):
            prediction["box"] = [round(float(side), 3) for side in box]
        return as_dict(self, predictions)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file, boxes as ``[x, y, width, height]``.

        Args:
            image_id: id of the image in the COCO annotation file.
            category_ids: the COCO id of each class, in the order of ``class_names``; the class index where absent.
        """
        return coco_rows(self.boxes, self.scores, self.labels, image_id, category_ids)

    def to_supervision(self) -> supervision.Detections:
        """As ``supervision.Detections`` with ``data["class_name"]`` (needs the package supervision)."""
        converted = supervision_package().Detections(
            xyxy=self.boxes.reshape(-1, 4),
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return cast("supervision.Detections", converted)

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy of ``image`` with boxes, class names and scores drawn on it."""
        captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return draw_boxes(image, self.boxes, self.labels, captions)


Result = Classification | Detections | SemanticMask | Instances
