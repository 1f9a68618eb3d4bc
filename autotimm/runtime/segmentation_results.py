"""What ``predict`` returns for segmentation: the class of each pixel, or the mask of each object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.mask_drawing import class_colors, draw_classes, draw_instances
from autotimm.runtime.mask_regions import MaskRegion
from autotimm.runtime.result_formats import as_dict, coco_rows, named, supervision_package

if TYPE_CHECKING:
    import supervision

    from autotimm.runtime.drawing import Color


@dataclass(frozen=True, eq=False)
class SemanticMask:
    """The class of every pixel of one image."""

    image_size: tuple[int, int]
    """``(height, width)`` of the source image."""
    class_names: tuple[str, ...]
    mask: NDArray[np.uint8] | NDArray[np.int32]
    """``[H, W]`` class indices at source size: uint8 up to 256 classes, else int32."""
    palette: tuple[Color, ...] | None = None
    """RGB of each class, for drawings; AutoTimm's own colours where absent."""

    task = "semantic_segmentation"

    @property
    def coverage(self) -> NDArray[np.float64]:
        """``[C]``: the share of the image that each class takes, 0..1."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.class_names))
        return counts / max(1, self.mask.size)

    @property
    def present(self) -> list[int]:
        """The classes that the image has, by area, the largest first."""
        coverage = self.coverage
        return [int(label) for label in np.argsort(-coverage, kind="stable") if coverage[label] > 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the size of the image and, for each class it has, the fraction of its pixels."""
        coverage = self.coverage
        predictions = [
            {"label": label, "name": self.class_names[label], "fraction": round(float(coverage[label]), 6)}
            for label in self.present
        ]
        return as_dict(self, predictions)

    def to_image(self) -> Image.Image:
        """The class indices as a paletted picture, as mask files have them; above 256 classes 16-bit grey."""
        if self.mask.dtype != np.uint8:
            return Image.fromarray(self.mask.astype(np.uint16))
        picture = Image.fromarray(self.mask)
        picture.putpalette(np.array(class_colors(self.class_names, self.palette), np.uint8).tobytes())
        return picture

    def to_supervision(self) -> supervision.Detections:
        """As ``supervision.Detections``: one mask for each class that the image has (needs the package supervision)."""
        present = self.present
        masks = [self.mask == label for label in present]
        corners = [_extent(mask) for mask in masks]
        converted = supervision_package().Detections(
            xyxy=np.array(corners, np.float32).reshape(-1, 4),
            mask=np.array(masks, bool).reshape(-1, *self.image_size),
            class_id=np.array(present, dtype=int),
            data={"class_name": np.array([self.class_names[label] for label in present], dtype=str)},
        )
        return cast("supervision.Detections", converted)

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy of ``image`` with the classes in translucent colours, and a legend."""
        return draw_classes(image, self.mask, self.class_names, self.coverage, self.palette)


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects found in one image with their masks, best first."""

    image_size: tuple[int, int]
    """``(height, width)`` of the source image."""
    class_names: tuple[str, ...]
    boxes: NDArray[np.float32]
    """``[n, 4]`` xyxy in source pixels, clipped to the image."""
    scores: NDArray[np.float32]
    """``[n]``"""
    labels: NDArray[np.int32]
    """``[n]`` class indices."""
    regions: tuple[MaskRegion, ...]
    """``n`` masks, each kept for the part of the image that holds it."""

    task = "instance_segmentation"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Class names that go with ``labels``."""
        return [self.class_names[label] for label in self.labels]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """``[n, H, W]``: whole masks, made anew each time, which take n times the pixels of the image."""
        masks = np.zeros((len(self), *self.image_size), bool)
        for mask, region in zip(masks, self.regions, strict=True):
            region.paint(mask, value=True)
        return masks

    @property
    def areas(self) -> NDArray[np.int64]:
        """``[n]``: pixels of each mask."""
        return np.array([region.area for region in self.regions], np.int64)

    def rle(self) -> list[dict[str, Any]]:
        """Each mask as COCO's compressed RLE: ``{"size": [height, width], "counts": text}``."""
        return [region.rle(self.image_size) for region in self.regions]

    def above(self, score: float) -> Instances:
        """Only the objects whose score is at least ``score``."""
        kept = np.flatnonzero(self.scores >= score)
        regions = tuple(self.regions[index] for index in kept)
        return Instances(
            self.image_size, self.class_names, self.boxes[kept], self.scores[kept], self.labels[kept], regions
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the size of the image and one prediction per object, with its mask as RLE."""
        predictions = named(self.labels, self.scores, self.class_names)
        for prediction, box, mask in zip(predictions, self.boxes, self.rle(), strict=True):
            prediction["box"] = [round(float(side), 3) for side in box]
            prediction["mask"] = mask
        return as_dict(self, predictions)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO results file, with ``bbox`` and, as RLE, ``segmentation``.

        Args:
            image_id: id of the image in the COCO annotation file.
            category_ids: the COCO id of each class, in the order of ``class_names``; the class index where absent.
        """
        rows = coco_rows(self.boxes, self.scores, self.labels, image_id, category_ids)
        return [{**row, "segmentation": mask} for row, mask in zip(rows, self.rle(), strict=True)]

    def to_supervision(self) -> supervision.Detections:
        """As ``supervision.Detections`` with whole masks and ``data["class_name"]`` (needs the package supervision)."""
        converted = supervision_package().Detections(
            xyxy=self.boxes.reshape(-1, 4),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return cast("supervision.Detections", converted)

    def draw(self, image: Image.Image) -> Image.Image:
        """A copy of ``image`` with masks, boxes, class names and scores drawn on it."""
        captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return draw_instances(image, self.boxes, self.labels, captions, self.class_names, self.regions, self.image_size)


def _extent(mask: NDArray[np.bool_]) -> list[int]:
    """The xyxy box about the pixels of a mask that has some."""
    region = MaskRegion.of(mask)
    height, width = region.pixels.shape
    return [region.left, region.top, region.left + width, region.top + height]
