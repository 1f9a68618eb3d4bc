"""Images with boxes wherever they come from: what COCO, CSV, Pascal VOC and YOLO files all become."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
"""``[n, 4]`` xyxy."""


class BoxedPixels(NamedTuple):
    """A decoded image with its boxes, on its way through augmentation."""

    image: NDArray[np.uint8]
    """RGB ``[h, w, 3]``."""
    boxes: Boxes
    """In pixels of ``image``, origin at the outer corner of the top-left one."""
    labels: NDArray[np.int64]
    """``[n]`` class indices."""


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """One annotated image. Boxes are in source pixels, clipped to the image; crowds are among them."""

    path: Path
    image_id: int
    """COCO's id; in other formats the image's place in the list."""
    size: tuple[int, int]
    """``(height, width)`` as the annotations have it, or the file itself where they do not say."""
    boxes: NDArray[np.float32]
    """``[n, 4]`` xyxy, origin at the outer corner of the top-left pixel."""
    labels: NDArray[np.int64]
    """``[n]`` class indices."""
    crowd: NDArray[np.bool_]
    """``[n]``: COCO's ``iscrowd``, VOC's ``difficult``: never a target of training, never a miss in evaluation."""
    area: NDArray[np.float32]
    """``[n]``: the annotated area, the box's where there is none."""
    masks: tuple[dict[str, Any], ...] = ()
    """``n`` masks as COCO's compressed RLE, where they were read."""


@dataclass(frozen=True, eq=False)
class BoxedData:
    """The images of one split, those without objects too: COCO's in the order of their ids, others as in the file."""

    source: Path
    """The file or folder of the annotations, for messages."""
    class_names: tuple[str, ...]
    """In the order of the category ids."""
    category_ids: tuple[int, ...]
    """The number of each class in the annotations, for writing results; where they have names only, its index."""
    images: tuple[BoxedImage, ...]
