"""Masks of images that are larger than the network's input, window by window at their own scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime import Predictor
from autotimm.runtime.errors import ConfigError, ImageError
from autotimm.runtime.images import load_image
from autotimm.runtime.preprocess import Placement
from autotimm.runtime.segmentation_results import SemanticMask

Span = tuple[int, int, int]
"""Along one axis: where a window begins, and from and to which pixel of the image its classes are taken."""


def check_overlap(overlap: float) -> float:
    """The overlap itself.

    Raises:
        ConfigError: no share of a window that leaves something to move on by.
    """
    if not 0.0 <= overlap <= 0.9:
        raise ConfigError(f"the overlap of sliding windows is {overlap}, but must be in 0..0.9, as a share of a window")
    return overlap


def stream_windows(predictor: Predictor, images: Iterable[Path], overlap: float) -> Iterator[SemanticMask | ImageError]:
    """Like ``predictor.stream``, by :func:`predict_windows`."""
    for image in images:
        try:
            pixels = load_image(image)
        except ImageError as error:
            yield error
        else:
            yield predict_windows(predictor, pixels, overlap)


def predict_windows(predictor: Predictor, image: NDArray[np.uint8], overlap: float) -> SemanticMask:
    """The mask of an image, which is not scaled: windows of the size of the network's input lie all over it.

    Where windows overlap, a pixel takes its class from the one whose centre is nearer along each axis, since a network
    sees least at the edge of its input. An artifact gives classes and no probabilities, so there is nothing to average;
    for a checkpoint it is done in the same way, so that both can be compared.

    Args:
        predictor: of a segmentation model, whatever it runs on.
        image: RGB uint8 ``[h, w, 3]``; where it is smaller than the input, padding makes up for it.
        overlap: least share of a window that its neighbour sees as well.

    Raises:
        ConfigError: the artifact resizes images itself, and would scale the windows.
    """
    manifest = predictor.manifest
    (height, width), (rows, columns) = image.shape[:2], manifest.preprocess.size
    mask = np.zeros((height, width), dtype=np.uint8 if len(manifest.class_names) <= 256 else np.int32)
    whole = Placement((rows, columns), (rows, columns), (0, 0))
    if predictor.takes_image and manifest.preprocess.place(rows, columns) != whole:
        raise ConfigError("this artifact scales every image, so windows are of no use: export it with --input batch")
    palette = manifest.palette
    for top, from_row, to_row in spans(height, rows, overlap):
        for left, from_column, to_column in spans(width, columns, overlap):
            window = np.full((rows, columns, 3), manifest.preprocess.pad_value, np.uint8)
            seen = image[top : top + rows, left : left + columns]
            window[: seen.shape[0], : seen.shape[1]] = seen
            (found,) = predictor.finish(predictor.run(predictor.as_input([window])), [whole])
            assert isinstance(found, SemanticMask)
            mask[from_row:to_row, from_column:to_column] = found.mask[
                from_row - top : to_row - top, from_column - left : to_column - left
            ]
    return SemanticMask((height, width), manifest.class_names, mask, palette)


def spans(length: int, window: int, overlap: float) -> list[Span]:
    """Windows along one axis, evenly spread, with the pixels that each decides: up to the middle of the overlaps.

    Args:
        length: pixels of the image.
        window: pixels of a window.
        overlap: least share of it that neighbours have in common.
    """
    steps = max(0, math.ceil((length - window) / max(1, math.floor(window * (1 - overlap)))))
    starts = [round(step * (length - window) / steps) for step in range(steps + 1)] if steps else [0]
    middles = [(before + window + after) // 2 for before, after in pairwise(starts)]
    edges = [0, *middles, length]
    return list(zip(starts, edges[:-1], edges[1:], strict=True))
