"""Images to verify and to measure on: the user's, or generated ones where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from autotimm.runtime.errors import DataError, ImageError
from autotimm.runtime.images import list_images, load_image

LIMIT = 16
"""Images compared: enough to meet small and large objects, few enough for an export to stay quick."""
SIZES = ((480, 640), (640, 480), (333, 500), (720, 1280), (64, 64), (200, 900))


@dataclass(frozen=True)
class Pictures:
    """Images and, in words, where they came from."""

    images: list[Path] | list[NDArray[np.uint8]]
    source: str


def choose_pictures(
    folder: str | Path | None, remembered: list[str] | None, calibration: Sequence[Path] = ()
) -> Pictures:
    """From the folder where one is given, else the validation images of the checkpoint, else generated ones.

    int8 is calibrated on images, and these are better than generated ones.

    Args:
        folder: of images.
        remembered: paths that a checkpoint remembers; ``None`` where there is no checkpoint.
        calibration: images that the artifact is calibrated on.

    Raises:
        DataError: the folder is missing or holds no images.
    """
    if folder is not None:
        found = list_images(folder)
        chosen = _spread(found)
        return Pictures(chosen, f"{len(chosen)} of {len(found)} images in {Path(folder).resolve().name}")
    present = [Path(name) for name in remembered or () if Path(name).is_file()]
    if present:
        gone = len(remembered or ()) - len(present)
        where = f", of which {gone} are no longer there" if gone else ""
        return Pictures(_spread(present), f"validation images of the checkpoint{where}")
    if calibration:
        chosen = _spread(list(calibration))
        return Pictures(chosen, f"{len(chosen)} of the {len(calibration)} images of the calibration")
    if remembered is None:
        reason = "no folder of images was given"
    else:
        reason = "the checkpoint's images are not here" if remembered else "the checkpoint remembers no images"
    return Pictures(
        [generate(height, width, seed) for seed, (height, width) in enumerate(SIZES)], f"generated ({reason})"
    )


def within(pictures: Pictures, least: tuple[int, int], most: tuple[int, int]) -> Pictures:
    """Those of a size that an engine takes; generated pictures are generated again at the nearest such size.

    Files that cannot be read stay, for who reads them to say so.

    Args:
        pictures: of any size.
        least: smallest height and width.
        most: largest ones.

    Raises:
        DataError: none has such a size.
    """
    given: Sequence[Path | NDArray[np.uint8]] = pictures.images
    files: list[Path] = []
    arrays: list[NDArray[np.uint8]] = []
    for seed, image in enumerate(given):
        if isinstance(image, Path):
            if _is_within(image, least, most):
                files.append(image)
            continue
        height, width = (int(np.clip(image.shape[axis], least[axis], most[axis])) for axis in (0, 1))
        arrays.append(image if image.shape[:2] == (height, width) else generate(height, width, seed))
    if not files and not arrays:
        raise DataError(
            f"none of these pictures has a size between {least[0]}x{least[1]} and {most[0]}x{most[1]} (height x width) "
            f"pixels, which are what the engine takes: {pictures.source}; give others, or build with a larger profile"
        )
    if len(files) + len(arrays) == len(pictures.images):
        return Pictures(arrays or files, pictures.source)
    return Pictures(files, f"{len(files)} that the profile takes of {pictures.source}")


def _is_within(file: Path, least: tuple[int, int], most: tuple[int, int]) -> bool:
    try:
        height, width, _ = load_image(file).shape
    except ImageError:
        return True
    return bool(least[0] <= height <= most[0] and least[1] <= width <= most[1])


def write_pictures(folder: Path) -> list[Path]:
    """Generated pictures as JPEG files, for measuring from file to result."""
    paths = []
    for seed, (height, width) in enumerate(SIZES):
        paths.append(folder / f"{width}x{height}.jpg")
        Image.fromarray(generate(height, width, seed)).save(paths[-1], quality=90)
    return paths


def generate(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A picture with smooth and sharp parts: coloured shapes on a gradient, blurred here and there, with noise."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, width)[None, :, None] * np.linspace(0.3, 1, height)[:, None, None]
    background = (ramp * random.integers(60, 255, 3)).astype(np.uint8)
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.uniform(0, width), random.uniform(0, height)
        w, h = random.uniform(0.05, 0.4, 2) * min(height, width)
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
    image.paste(image.crop((0, 0, width // 2, height)).filter(ImageFilter.GaussianBlur(3)))
    noise = random.normal(0, 6, (height, width, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)


def _spread(images: list[Path]) -> list[Path]:
    """At most ``LIMIT`` images, evenly over the list, since folders are often sorted by class."""
    if len(images) <= LIMIT:
        return images
    return [images[index * len(images) // LIMIT] for index in range(LIMIT)]
