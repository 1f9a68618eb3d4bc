"""COCO average precision of masks and of their boxes, from the results that any artifact or model gives."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from autotimm.metrics.config import MetricConfig
from autotimm.metrics.configured import ConfiguredMetrics
from autotimm.metrics.gathering import GatheredRows
from autotimm.runtime.errors import DataError
from autotimm.runtime.results import Result
from autotimm.runtime.segmentation_results import Instances

if TYPE_CHECKING:
    from autotimm.data.batch import InstanceTruth

_FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
"""The first six of COCOeval's list."""
_KINDS: dict[Literal["segm", "bbox"], str] = {"segm": "mask", "bbox": "box"}
_REPORTED = tuple(f"{name}_{figure}" for name in _KINDS.values() for figure in _FIGURES)
_Objects = dict[str, Tensor]


class InstanceMetric:
    """COCO AP of masks and boxes in source pixels, over IoU .5 to .95 and at most 100 objects an image.

    Computed by pycocotools. Crowds neither count nor harm, and an object is small, medium or large by its annotated
    area, as in the official evaluation; a found one by the area of what is compared, its mask or its box. Where several
    processes share the images, each updates its own object, and all of them get the figures of the whole.

    Args:
        num_classes: of the model; labels lie in 0..num_classes - 1.
        class_names: for figures that are given class by class.
        extra: further metrics of the boxes, which get what those of detection get.

    Raises:
        ConfigError: one of ``extra`` cannot be made.
    """

    def __init__(
        self, num_classes: int, *, class_names: Sequence[str] = (), extra: Sequence[MetricConfig] = ()
    ) -> None:
        self.num_classes = num_classes
        self._rows = GatheredRows(
            found=torch.empty(0, 7),  # box, score, label, length of the mask's counts
            annotated=torch.empty(0, 8),  # box, label, crowd, area, length of the mask's counts
            images=torch.empty(0, 4, dtype=torch.int64),  # objects of both, height, width
            found_counts=torch.empty(0, dtype=torch.uint8),  # the counts of all masks, one after the other
            annotated_counts=torch.empty(0, dtype=torch.uint8),
        )
        self._extra = ConfiguredMetrics(
            extra,
            class_names or [str(index) for index in range(num_classes)],
            {"num_classes": num_classes},
            taken=_REPORTED,
        )

    def to(self, device: torch.device | str) -> None:
        """Keep what is gathered over processes on this device."""
        self._rows.to(device)
        self._extra.to(device)

    def reset(self) -> None:
        """Forget everything seen."""
        self._rows.reset()
        self._extra.reset()

    def update(self, results: Sequence[Result], truths: Sequence[InstanceTruth]) -> None:
        """Add the objects found in some images and what is annotated in each."""
        if len(results) != len(truths):
            raise ValueError(f"{len(results)} results, but {len(truths)} truths")
        for result, truth in zip(results, truths, strict=True):
            if not isinstance(result, Instances):
                raise TypeError(f"the average precision of the masks of {type(result).__name__} is not defined")
            ours, theirs = [mask["counts"] for mask in result.rle()], [mask["counts"] for mask in truth.masks]
            found = {
                "boxes": torch.from_numpy(result.boxes.reshape(-1, 4).copy()),
                "scores": torch.from_numpy(result.scores.copy()),
                "labels": torch.from_numpy(result.labels.astype(np.int64)),
            }
            annotated = {
                "boxes": truth.boxes.reshape(-1, 4),
                "labels": truth.labels,
                "iscrowd": truth.crowd.long(),
                "area": truth.area,
            }
            self._rows.update(
                found=_as_rows(found, ours),
                annotated=_as_rows(annotated, theirs),
                images=torch.tensor([[len(ours), len(theirs), *result.image_size]]),
                found_counts=_as_bytes(ours),
                annotated_counts=_as_bytes(theirs),
            )
            self._extra.update([found], [annotated])

    def compute(self) -> dict[str, float]:
        """``mask_map``, ``mask_map_50``, ``mask_map_75``, ``mask_map_small``, ``mask_map_medium``, ``mask_map_large``,
        and the same with ``box_``.

        Each is 0..1, or -1 as pycocotools has it where nothing of the kind is annotated.

        Raises:
            ConfigError: a further metric gives something that is no figure.
            DataError: nothing has been seen.
        """
        found, annotated = self._everything()
        values = {}
        for kind, name in _KINDS.items():
            stats = _evaluated(found, annotated, self.num_classes, kind).stats
            values.update({f"{name}_{figure}": float(value) for figure, value in zip(_FIGURES, stats, strict=False)})
        values.update(self._extra.compute(lambda: ([one.boxed for one in found], [one.boxed for one in annotated])))
        return values

    def compute_per_class(self) -> dict[int, float]:
        """Mask AP of each class index that is annotated somewhere; the mean of them is ``mask_map``."""
        precision = _evaluated(*self._everything(), self.num_classes, "segm").eval["precision"][:, :, :, 0, -1]
        found = {}
        for label in range(self.num_classes):
            known = precision[:, :, label][precision[:, :, label] > -1]
            if known.size:
                found[label] = float(known.mean())
        return found

    def _everything(self) -> tuple[list[_Image], list[_Image]]:
        """What was found and what is annotated in each image that any process has seen."""
        rows = self._rows.gather()
        if not len(rows["images"]):
            raise DataError("there is no average precision of no images: the evaluation set is empty")
        sizes = rows["images"][:, 2:].tolist()
        sides = []
        for column, name, fields in ((0, "found", ("scores", "labels")), (1, "annotated", _ANNOTATED)):
            table, text = rows[name], bytes(rows[f"{name}_counts"].numpy())
            parts = torch.split(table, rows["images"][:, column].tolist())
            begin, images = 0, []
            for part, size in zip(parts, sizes, strict=True):
                masks = []
                for length in part[:, -1].long().tolist():
                    masks.append({"size": size, "counts": text[begin : begin + length]})
                    begin += length
                values = {field: part[:, 4 + place] for place, field in enumerate(fields)}
                images.append(_Image(size, {"boxes": part[:, :4], **values}, masks))
            sides.append(images)
        return sides[0], sides[1]


_ANNOTATED = ("labels", "iscrowd", "area")


class _Image:
    """The objects of one image: dictionaries as torchmetrics has them for boxes, and the masks as RLE."""

    def __init__(self, size: list[int], values: _Objects, masks: list[dict[str, Any]]) -> None:
        self.height, self.width = size
        self.boxed = {name: value.long() if name in ("labels", "iscrowd") else value for name, value in values.items()}
        self.masks = masks

    def rows(self, image: int, kind: Literal["segm", "bbox"]) -> list[dict[str, Any]]:
        """The objects as COCO's annotations, without their ids."""
        boxes = self.boxed["boxes"].double()
        sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
        others = {name: self.boxed[name].tolist() for name in ("scores", "iscrowd", "area") if name in self.boxed}
        areas = coco_masks.area(self.masks).tolist() if self.masks else []
        rows = []
        for place, (corner, side, label) in enumerate(
            zip(boxes[:, :2].tolist(), sides, self.boxed["labels"].tolist(), strict=True)
        ):
            own = float(areas[place]) if kind == "segm" else side[0] * side[1]
            row = {
                "image_id": image,
                "category_id": label,
                "bbox": [*corner, *side],
                "segmentation": self.masks[place],
                "area": others["area"][place] if "area" in others else own,
                "iscrowd": others["iscrowd"][place] if "iscrowd" in others else 0,
            }
            rows.append({**row, "score": others["scores"][place]} if "scores" in others else row)
        return rows


def _evaluated(
    found: list[_Image], annotated: list[_Image], num_classes: int, kind: Literal["segm", "bbox"]
) -> COCOeval:
    """Pycocotools' evaluation, finished."""
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its progress
        evaluation = COCOeval(_as_coco(annotated, num_classes, kind), _as_coco(found, num_classes, kind), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _as_coco(images: list[_Image], num_classes: int, kind: Literal["segm", "bbox"]) -> COCO:
    rows = [row for index, image in enumerate(images) for row in image.rows(index, kind)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index, "height": image.height, "width": image.width} for index, image in enumerate(images)],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": [{**row, "id": number} for number, row in enumerate(rows, start=1)],  # 0 means unmatched
    }
    coco.createIndex()
    return coco


def _as_rows(objects: _Objects, counts: Sequence[str]) -> Tensor:
    """All that is known of each object of an image but the counts of its mask, whose length comes last."""
    lengths = torch.tensor([len(one) for one in counts], dtype=torch.float32)
    columns = [value.float() if value.ndim == 2 else value.float()[:, None] for value in (*objects.values(), lengths)]
    return torch.cat(columns, dim=1)


def _as_bytes(counts: Sequence[str]) -> Tensor:
    """The counts one after the other; those of a mask of many megapixels have less than 16 million letters."""
    return torch.from_numpy(np.frombuffer("".join(counts).encode(), np.uint8).copy())
