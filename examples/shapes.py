"""A small COCO-format detection set that needs no download: circles, squares and triangles on photographs.

    python examples/shapes.py FOLDER

The photographs come with scikit-image (``make setup`` installs it). One of those behind the validation images, the cat,
is behind no training image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle")
_BEHIND_VAL = ("chelsea", "coffee", "rocket", "stereo_motorcycle")
PHOTOGRAPHS = {
    "train": (
        *("brick", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon"),
        *("retina", "rocket", "stereo_motorcycle"),
    ),
    "val": _BEHIND_VAL,
    "new": _BEHIND_VAL,
}
"""What each split shows in the background, by its name in ``skimage.data``."""
COUNTS = {"train": 640, "val": 80, "new": 12}
"""Images of each split; ``new`` is for predicting on."""
SIZES = ((180, 240), (240, 180), (200, 200))
"""``(height, width)`` of the images: none has the shape of the network input."""
SIDE = (32, 96)
"""Of a shape's box, in pixels."""
FINER = 4
"""Shapes are drawn so many times larger and scaled down, which smooths their edges."""


def make_shapes(root: Path, counts: Mapping[str, int] = COUNTS, seed: int = 0) -> None:
    """Write ``images/SPLIT/*.jpg`` and ``annotations/SPLIT.json``.

    Args:
        root: the folder to write to; files of the same names are overwritten.
        counts: images of each split: a split is a key of ``PHOTOGRAPHS``.
        seed: the same seed makes the same set.
    """
    random = np.random.default_rng(seed)
    for split, count in counts.items():
        backgrounds = [_photograph(name) for name in PHOTOGRAPHS[split]]
        folder = root / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(count):
            picture, objects = _scene(backgrounds, random)
            name = f"{image_id:04d}.jpg"
            picture.save(folder / name, quality=90)
            images.append({"id": image_id, "file_name": name, "width": picture.width, "height": picture.height})
            for label, (x1, y1, x2, y2) in objects:
                box = [x1, y1, x2 - x1, y2 - y1]
                row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "bbox": box}
                annotations.append({**row, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
        file = root / "annotations" / f"{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _photograph(name: str) -> Image.Image:
    pixels = getattr(skimage.data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels).convert("RGB")


def _scene(
    backgrounds: Sequence[Image.Image], random: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, list[float]]]]:
    """A piece of a photograph with one to five shapes that hardly overlap: the picture, then label and xyxy of each."""
    height, width = SIZES[int(random.integers(len(SIZES)))]
    picture = _crop(backgrounds[int(random.integers(len(backgrounds)))], height, width, random)
    objects: list[tuple[int, list[float]]] = []
    for _ in range(random.integers(1, 6)):
        label = int(random.integers(len(CLASSES)))
        outline = _outline(CLASSES[label], random.uniform(*SIDE), random.normal(0, 0.15))
        extent = outline.max(axis=0)
        corner = random.uniform((0, 0), (width, height) - extent)
        box = [float(round(value, 2)) for value in (*corner, *(corner + extent))]
        if all(_shared_part(box, other) < 0.1 for _, other in objects):
            _paint(picture, outline + corner, random)
            objects.append((label, box))
    return picture, objects


def _crop(photograph: Image.Image, height: int, width: int, random: np.random.Generator) -> Image.Image:
    scale = random.uniform(1.0, min(photograph.height / height, photograph.width / width))
    w, h = width * scale, height * scale
    left, top = random.uniform(0, photograph.width - w), random.uniform(0, photograph.height - h)
    piece = photograph.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else piece


def _outline(shape: str, side: float, angle: float) -> NDArray[np.float64]:
    """Corners ``[n, 2]`` (x, y) of a turned shape whose longer side is ``side``; its box begins at the origin."""
    corners = {"circle": 48, "square": 4, "triangle": 3}[shape]
    turns = angle + (np.arange(corners) + 0.5) * 2 * np.pi / corners + np.pi / 2 * (corners == 3)
    points = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points -= points.min(axis=0)
    points *= side / points.max()
    return points


def _paint(picture: Image.Image, outline: NDArray[np.float64], random: np.random.Generator) -> None:
    """Fill an outline with one colour that stands out from what is behind it, lit from one side."""
    left, top = np.floor(outline.min(axis=0)).astype(int)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int)
    behind = np.asarray(picture.crop((left, top, right, bottom)), dtype=np.float64)
    mask = Image.new("L", ((right - left) * FINER, (bottom - top) * FINER))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in (outline - (left, top)) * FINER], fill=255)
    cover = np.asarray(mask.resize((right - left, bottom - top), Image.Resampling.BOX))[..., None] / 255
    candidates = random.uniform(20, 235, (6, 3))
    colour = candidates[np.abs(candidates - behind.mean(axis=(0, 1))).sum(axis=1).argmax()]
    light = np.linspace(random.uniform(0.7, 1.0), random.uniform(1.0, 1.1), behind.shape[1])[None, :, None]
    grain = random.normal(0, 6, behind.shape)
    painted = behind * (1 - cover) + (colour * light + grain) * cover
    picture.paste(Image.fromarray(painted.clip(0, 255).astype(np.uint8)), (int(left), int(top)))


def _shared_part(box: Sequence[float], other: Sequence[float]) -> float:
    """The area that two xyxy boxes share, over that of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(0.0, width) * max(0.0, height) / min(areas)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    make_shapes(parser.parse_args().folder)
