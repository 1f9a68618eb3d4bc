"""Image folders of generated pictures, for measurements that train."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from autotimm.runtime.pictures import generate


def write_image_folder(root: Path, *, classes: int, train: int, val: int, size: tuple[int, int]) -> Path:
    """Write ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg``.

    Args:
        root: made if absent.
        classes: how many; their pictures differ no more than those of one class do.
        train: images in all, spread over the classes.
        val: the same for validation.
        size: height and width of every image.

    Returns:
        ``root``.
    """
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            folder = root / split / f"class_{index % classes}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generate(*size, seed)).save(folder / f"{index:05d}.jpg", quality=90)
            seed += 1
    return root
