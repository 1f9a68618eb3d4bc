"""Random rotation, scale, shear and translation of an image with its boxes."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.data.boxed import BoxedPixels, Boxes
from autotimm.data.transforms import Pixels, as_array, as_tensor

Matrix = NDArray[np.float64]
"""``[3, 3]``: from source to target, in continuous pixel coordinates with the origin at the outer corner."""

MIN_SIDE = 2.0
"""A box with a side of at most so many pixels is dropped (wh_thr of the official YOLOX's box_candidates)."""
MIN_VISIBLE = 0.2
"""A box that keeps no more than this of its scaled area is dropped (area_thr of the same)."""
MAX_ASPECT = 20.0
"""A box that is this much longer than wide, or wider, is dropped (ar_thr of the same)."""


def affine_matrix(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    rotation: float,
    scale: float,
    shear: tuple[float, float],
    centre: tuple[float, float],
) -> Matrix:
    """The middle of the source is turned and scaled, sheared, and put somewhere into the target.

    Args:
        source: ``(height, width)``.
        target: ``(height, width)``.
        rotation: in degrees, counter-clockwise as one sees it.
        scale: target pixels per source pixel.
        shear: along x and along y, in degrees.
        centre: where the middle of the source comes to lie, over the width and the height of the target.
    """
    to_middle = np.array([[1.0, 0.0, -source[1] / 2], [0.0, 1.0, -source[0] / 2], [0.0, 0.0, 1.0]])
    cosine, sine = scale * math.cos(math.radians(rotation)), scale * math.sin(math.radians(rotation))
    turned = np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    along_x, along_y = (math.tan(math.radians(angle)) for angle in shear)
    sheared = np.array([[1.0, along_x, 0.0], [along_y, 1.0, 0.0], [0.0, 0.0, 1.0]])
    moved = np.array([[1.0, 0.0, centre[0] * target[1]], [0.0, 1.0, centre[1] * target[0]], [0.0, 0.0, 1.0]])
    matrix: Matrix = moved @ sheared @ turned @ to_middle
    return matrix


def random_affine(
    given: BoxedPixels,
    size: tuple[int, int],
    *,
    rotation: float,
    scale: tuple[float, float],
    shear: float,
    translation: float,
    pad_value: int,
    random: np.random.Generator,
) -> BoxedPixels:
    """Warp an image with boxes to another size.

    Args:
        given: the image.
        size: ``(height, width)`` of the result.
        rotation: up to so many degrees either way.
        scale: least and greatest.
        shear: up to so many degrees either way, along each axis.
        translation: of the middle, up to such a part of the size.
        pad_value: around the image.
        random: of all that.

    Returns:
        The image, and the boxes around what was in the boxes, clipped, but for those of which too little is left.
    """
    factor = random.uniform(*scale)
    matrix = affine_matrix(
        (given.image.shape[0], given.image.shape[1]),
        size,
        rotation=random.uniform(-rotation, rotation),
        scale=factor,
        shear=(random.uniform(-shear, shear), random.uniform(-shear, shear)),
        centre=(
            random.uniform(0.5 - translation, 0.5 + translation),
            random.uniform(0.5 - translation, 0.5 + translation),
        ),
    )
    edges = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
    boxes = np.clip(moved_boxes(given.boxes, matrix), 0, edges)
    kept = worth_keeping(given.boxes * np.float32(factor), boxes)
    return BoxedPixels(warp(given.image, matrix, size, pad_value), boxes[kept], given.labels[kept])


def warp(image: Pixels, matrix: Matrix, size: tuple[int, int], pad_value: int) -> Pixels:
    """The image under a matrix, bilinear without antialiasing, RGB uint8 ``[*size, 3]``.

    At its edges it goes over into the padding, as OpenCV's ``warpAffine`` has it.
    """
    inverse: Matrix = np.linalg.inv(matrix)[:2].astype(np.float64)
    rows, columns = _seen(inverse, size, (image.shape[0], image.shape[1]))
    part = np.ascontiguousarray(image[rows, columns])
    if part.size == 0:
        return np.full((*size, 3), pad_value, dtype=np.uint8)
    # the part of it in torch's coordinates, -1 to 1 from edge to edge
    inverse[:, 2] -= columns.start, rows.start
    (xx, xy, x0), (yx, yy, y0) = inverse * (2 / np.array([[part.shape[1]], [part.shape[0]]]))
    right, down = (torch.arange(side, dtype=torch.float32) + 0.5 for side in (size[1], size[0]))
    places = torch.empty(1, *size, 2)
    torch.add(right * float(xx), (down * float(xy) + float(x0 - 1))[:, None], out=places[0, :, :, 0])
    torch.add(right * float(yx), (down * float(yy) + float(y0 - 1))[:, None], out=places[0, :, :, 1])
    # what is outside counts as 0, so that 0 must be the padding
    planes = as_tensor(part)[None].float().sub_(pad_value)
    warped = torch.nn.functional.grid_sample(planes, places, align_corners=False)[0]
    return as_array(warped.add_(pad_value + 0.5).to(torch.uint8))


def _seen(inverse: Matrix, size: tuple[int, int], source: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a source that a target of this size shows something of."""
    corners = np.array([[x, y, 1.0] for x in (0, size[1]) for y in (0, size[0])]) @ inverse.T
    first, last = np.floor(corners.min(axis=0)) - 1, np.ceil(corners.max(axis=0)) + 1
    left, top = (int(edge) for edge in np.clip(first, 0, (source[1], source[0])))
    right, bottom = (int(edge) for edge in np.clip(last, 0, (source[1], source[0])))
    return slice(top, bottom), slice(left, right)


def moved_boxes(boxes: Boxes, matrix: Matrix) -> Boxes:
    """The upright boxes around the moved corners, not clipped."""
    corners = boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 4, 2).astype(np.float64)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    around: Boxes = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)
    return around


def worth_keeping(before: Boxes, after: Boxes, min_side: float = MIN_SIDE) -> NDArray[np.bool_]:
    """Which boxes are still worth learning, by the official rule.

    Args:
        before: as they would be whole.
        after: as they are, clipped.
        min_side: in pixels.
    """
    whole = (before[:, 2] - before[:, 0]) * (before[:, 3] - before[:, 1])
    width, height = after[:, 2] - after[:, 0], after[:, 3] - after[:, 1]
    aspect = np.maximum(width, height) / np.maximum(np.minimum(width, height), 1e-9)
    kept: NDArray[np.bool_] = (
        (np.minimum(width, height) > min_side)
        & (width * height > MIN_VISIBLE * np.maximum(whole, 1e-9))
        & (aspect < MAX_ASPECT)
    )
    return kept
