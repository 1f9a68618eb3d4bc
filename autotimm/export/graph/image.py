"""An image of any size in, results in its own pixels out: the stages around those of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotimm.export.graph.contract import ExportGraph
from autotimm.export.graph.image_operator import FILTERS, resize_antialiased
from autotimm.export.graph.image_placement import Axis, place
from autotimm.export.graph.image_resize import per_channel, resize_bilinear, resize_by_matrices, resize_nearest
from autotimm.export.graph.semantic import SemanticGraph
from autotimm.runtime.manifest import Target
from autotimm.runtime.preprocess import Preprocess


class ImageResize(nn.Module):
    """RGB uint8 ``[H, W, 3]`` to the network input, as :func:`autotimm.runtime.fit_image` makes it on the host.

    Without antialiasing the pixels are those of the host, bit for bit; with it they are Pillow's to one grey level.
    """

    def __init__(self, preprocess: Preprocess, target: Target) -> None:
        super().__init__()
        self.preprocess, self.target = preprocess, target

    def forward(self, image: Tensor) -> tuple[Tensor, Axis, Axis]:
        """Resize, then pad or crop.

        Returns:
            Grey levels as float32 ``[1, h, w, 3]``, and where the image lies in them along the height and the width.
        """
        rows, columns = place(self.preprocess, image)
        pixels = self._scaled(image, rows, columns)
        if self.preprocess.fit == "letterbox":
            inside = rows.is_inside()[:, None] & per_channel(columns.is_inside())
            padded = torch.where(inside, pixels.flatten(1), float(self.preprocess.pad_value))
            pixels = torch.unflatten(padded, 1, (columns.side, 3))
        return pixels.unsqueeze(0), rows, columns

    def _scaled(self, image: Tensor, rows: Axis, columns: Axis) -> Tensor:
        interpolation = self.preprocess.interpolation
        in_operators = self.target == "onnxruntime"
        if interpolation != "nearest" and self.preprocess.antialias:
            if in_operators and interpolation in FILTERS:
                size = torch.stack((rows.resized, columns.resized))
                wanted = rows.scaled_pixels(), columns.scaled_pixels()
                scaled: Tensor = resize_antialiased(image, size, *wanted, interpolation)
                return scaled.float()
            return resize_by_matrices(image.float(), rows, columns, interpolation)
        # TensorRT gathers no uint8; on a CPU it is a quarter of the memory, of which few pixels are wanted.
        source = image if in_operators else image.float()
        resize = resize_nearest if interpolation == "nearest" else resize_bilinear
        return resize(source, rows, columns)


class ImageGraph(ExportGraph):
    """The graph of a batch, between resizing and mapping back: uint8 ``[H, W, 3]`` in, the outputs of one image out.

    Boxes and ``mask`` are in source pixels. The boxes of a detector are clipped to the image. Those that come with
    masks are not: a mask lies over its box as the network saw it, of which a part may be padding, so they are to be
    clipped after pasting, as the runtime does. The first internal value is ``pixels``, float32 ``[1, h, w, 3]``: what
    the network was given.
    """

    def __init__(self, graph: ExportGraph, preprocess: Preprocess, target: Target) -> None:
        super().__init__()
        self.resize = ImageResize(preprocess, target)
        self.stages = graph
        self.output_names = graph.output_names
        self.internal_names = ("pixels", *graph.internal_names)
        self.portable = graph.portable and target == "portable"

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the inner graph with leading dimension 1, then ``pixels`` and its internal values."""
        pixels, rows, columns = self.resize(image)
        if isinstance(self.stages, SemanticGraph):
            classes, logits = self.stages.classes(pixels)
            # An engine has no uint8 between nodes; where it has, it is an eighth of the memory.
            ids = classes.to(torch.int32) if self.resize.target == "portable" else self.stages.as_mask(classes)
            return self.stages.as_mask(_at_source(ids, rows, columns)), pixels, logits
        values = self.stages(pixels)
        count = len(self.output_names)
        outputs = dict(zip(self.output_names, values[:count], strict=True))
        if "boxes" in outputs:
            boxes = _to_source(outputs["boxes"], rows, columns) * (outputs["labels"] >= 0).unsqueeze(2)
            outputs["boxes"] = boxes if "masks" in outputs else _clipped(boxes, rows, columns)
        return *outputs.values(), pixels, *values[count:]


def _to_source(boxes: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Xyxy ``[1, K, 4]`` from network-input pixels to source pixels (:meth:`Placement.to_source`)."""
    shift = torch.stack((columns.offset, rows.offset)).float().repeat(2)
    source, resized = (torch.stack(sides).float().repeat(2) for sides in zip(columns[1:3], rows[1:3], strict=True))
    return (boxes - shift) * source / resized


def _clipped(boxes: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Xyxy ``[1, K, 4]`` inside the image."""
    return boxes.clamp(min=0).minimum(torch.stack((columns.source, rows.source)).float().repeat(2))


def _at_source(classes: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Class ids ``[1, h, w]`` at the size of the image, ``[1, H, W]``: of the nearest pixel, as the runtime does it."""
    return classes.index_select(2, columns.nearest_inputs()).index_select(1, rows.nearest_inputs())
