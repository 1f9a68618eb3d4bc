"""Pillow's antialiased filters as ONNX's ``Resize``: what ONNX Runtime is fastest at, and TensorRT does not build."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor
from torch.nn import functional as F

op: Any = opset18  # its stubs know no untyped values
FILTERS = {"bilinear": "linear", "bicubic": "cubic"}
"""What ONNX calls the filters that it has."""


@torch.library.custom_op("autotimm::resize_antialiased", mutates_args=())
def resize_antialiased(image: Tensor, size: Tensor, rows: Tensor, columns: Tensor, interpolation: str) -> Tensor:
    """What the ONNX nodes of :func:`resize_antialiased_in_onnx` compute, for running the graph's module in PyTorch.

    Args:
        image: uint8 ``[H, W, 3]``.
        size: int64 ``[2]``: height and width to scale the whole to.
        rows: int64 ``[h]``: which rows of that are wanted.
        columns: int64 ``[w]``.
        interpolation: a key of :data:`FILTERS`.

    Returns:
        uint8 ``[h, w, 3]``.
    """
    height, width = size.tolist()
    whole = F.interpolate(image.permute(2, 0, 1)[None], (height, width), mode=interpolation, antialias=True)
    return whole[0].index_select(1, rows).index_select(2, columns).permute(1, 2, 0).contiguous()


@resize_antialiased.register_fake
def _(image: Tensor, size: Tensor, rows: Tensor, columns: Tensor, interpolation: str) -> Tensor:
    return image.new_empty(rows.shape[0], columns.shape[0], 3)


def resize_antialiased_in_onnx(image: Any, size: Any, rows: Any, columns: Any, interpolation: str) -> Any:
    """The ONNX translation of :func:`resize_antialiased`.

    On uint8 ONNX Runtime's kernel is Pillow's, in fixed point, along the rows first; its float kernel neither rounds
    nor clips between the axes, and differs by several levels.
    """
    planes = op.Unsqueeze(op.Transpose(image, perm=[2, 0, 1]), op.Constant(value_ints=[0]))
    sizes = op.Concat(op.Constant(value_ints=[1, 3]), size, axis=0)
    whole = op.Resize(
        planes,
        None,
        None,
        sizes,
        antialias=1,
        coordinate_transformation_mode="half_pixel",
        cubic_coeff_a=-0.5,
        exclude_outside=1,
        mode=FILTERS[interpolation],
    )
    wanted = op.Gather(op.Gather(whole, rows, axis=2), columns, axis=3)
    return op.Transpose(op.Squeeze(wanted, op.Constant(value_ints=[0])), perm=[1, 2, 0])
