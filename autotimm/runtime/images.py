"""Decoding: any image a user may hand over, to RGB uint8 pixels the right way up."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotimm.runtime.errors import DataError, ImageError, one_line

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""What :func:`load_image` accepts."""

MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3
"""89,478,485: a quarter of a gibibyte of RGB pixels, the figure past which Pillow suspects a decompression bomb."""

EXTENSIONS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""File name endings, in lower case, that :func:`list_images` takes for images."""

_QUICK_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM")
"""Read by the plugins that Pillow imports first; the others cost the import of every plugin."""
_FORMATS = (*_QUICK_FORMATS, "WEBP", "TIFF", "AVIF", "JPEG2000")
"""What is read from files. Left out on purpose: EPS and other formats whose decoding starts foreign programs."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that undoes it (EXIF 2.32, section 4.6.4)."""


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode to RGB, upright by EXIF orientation, first frame of an animation, alpha dropped.

    Sixteen-bit grey is scaled to eight bits; integer images (Pillow's mode ``I``) are taken as 16-bit, floating-point
    ones (``F``) as 0..255, and values outside that range are an error rather than clipped.

    Args:
        source: path, PIL image, or uint8 array: RGB ``[H, W, 3]``, RGBA ``[H, W, 4]``, grey ``[H, W]``
            or ``[H, W, 1]``.
        max_pixels: files with more pixels than this are refused from their header.

    Returns:
        uint8 ``[H, W, 3]``, C-contiguous and writable; ``source`` itself where it already is that.

    Raises:
        ImageError: one line with the path and the cause.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = f"PIL image {source.mode} {source.width} x {source.height}"
        try:
            return _from_pillow(source, name)
        except ImageError:
            raise
        except Exception as error:  # an image opened lazily decodes only now: see _from_file
            raise ImageError(f"{name}: cannot be decoded: {one_line(error)}") from error
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), max_pixels)
    raise ImageError(
        f"an image must be a path, a PIL image or a uint8 array [H, W, 3], but this is a {type(source).__name__}"
    )


def decode_image(
    data: bytes, *, name: str = "image", max_pixels: int = MAX_PIXELS, formats: Sequence[str] = _FORMATS
) -> NDArray[np.uint8]:
    """The same for the bytes of an image file that lie in memory.

    Args:
        data: the file's content.
        name: what messages call the image.
        max_pixels: more pixels than this are refused from the header.
        formats: Pillow's names of the formats to accept.

    Returns:
        uint8 ``[H, W, 3]``, C-contiguous and writable.

    Raises:
        ImageError: one line with the name and the cause.
    """
    try:
        return _from_open_file(io.BytesIO(data), name, max_pixels, formats)
    except ImageError:
        raise
    except Exception as error:  # as in _from_file
        raise ImageError(f"{name}: cannot be decoded: {one_line(error)}") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """``(height, width)`` that :func:`load_image` would give, from the header of a file.

    Raises:
        ImageError: it has no header that can be read.
    """
    source = Path(path)
    try:
        with source.open("rb") as file:
            image = _read_header(file, source)
            if image.format == "PNG" and not _has_metadata(file):
                return image.height, image.width  # Pillow would decode all of it to look for them at the end
            if image.format != "TIFF":
                # transposing, which is what these orientations do, exchanges the two
                return image.size if _orientation(image) >= 5 else (image.height, image.width)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{source}: no such file") from error
    except Exception as error:  # as in _from_file
        raise ImageError(f"{source}: cannot be decoded: {one_line(error)}") from error
    # Pillow turns TIFF by itself, and its versions do not agree on when its size is that of the upright image
    height, width = load_image(source).shape[:2]
    return height, width


def _has_metadata(file: IO[bytes]) -> bool:
    """Whether a PNG file has a chunk that may tell an orientation."""
    place = file.tell()
    file.seek(8)  # after the signature
    found = False
    while not found and len(head := file.read(8)) == 8:
        found = head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(place)
    return found


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """The image files of a folder, by their extension, sorted by path.

    Args:
        folder: where to look.
        recursive: also look in the folders inside it.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder; give a folder of images")
    found = root.rglob("*") if recursive else root.iterdir()
    images = sorted(path for path in found if path.suffix.lower() in EXTENSIONS and path.is_file())
    if not images:
        raise DataError(f"{root}: holds no image file ({', '.join(sorted(EXTENSIONS))})")
    return images


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    shape = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(
            f"array {array.dtype} {list(shape)}: an image array must be uint8, "
            "RGB [H, W, 3], RGBA [H, W, 4] or grey [H, W] or [H, W, 1]"
        )
    if array.size == 0:
        raise ImageError(f"array {array.dtype} {list(shape)}: holds no pixels")
    if array.ndim == 2 or shape[2] == 1:
        return np.repeat(array.reshape(shape[0], shape[1], 1), 3, axis=2)
    return np.require(array if shape[2] == 3 else array[:, :, :3], requirements=["C", "W"])


def _from_file(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            return _from_open_file(file, str(path), max_pixels, _FORMATS)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path}: is a folder, not an image") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files: struct.error, KeyError, ...
        if path.is_dir():  # Windows says PermissionError
            raise ImageError(f"{path}: is a folder, not an image") from error
        raise ImageError(f"{path}: cannot be decoded: {one_line(error)}") from error


def _from_open_file(file: IO[bytes], name: str, max_pixels: int, formats: Sequence[str]) -> NDArray[np.uint8]:
    image = _read_header(file, name, formats)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageError(
            f"{name}: {image.width} x {image.height} is {pixels / 1e6:.0f} megapixels, refused before decoding "
            f"since the limit is {max_pixels / 1e6:.0f}; scale the image down first"
        )
    return _from_pillow(image, name)


def _read_header(file: IO[bytes], path: str | Path, formats: Sequence[str] = _FORMATS) -> Image.Image:
    """The undecoded image in an open file.

    ``Image.open`` would compare the size with a limit of the whole process and warn past it; asking the format plugins
    themselves leaves that limit, and Python's warning filters, alone.
    """
    prefix = file.read(16)
    if not prefix:
        raise ImageError(f"{path}: is empty (0 bytes)")
    Image.preinit()
    for name in formats:
        if name not in _QUICK_FORMATS:
            Image.init()
        if name not in Image.OPEN:  # this Pillow was built without it
            continue
        factory, accept = Image.OPEN[name]
        if name == "JPEG":  # not its factory, which looks for further frames and warns about phones' odd ones
            from PIL.JpegImagePlugin import JpegImageFile as factory  # noqa: N813
        if accept is None or accept(prefix) is True:
            file.seek(0)
            return cast(Image.Image, factory(file, str(path)))
    raise ImageError(f"{path}: is not an image that can be read here ({', '.join(formats)})")


def _from_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if min(image.size) < 1:
        raise ImageError(f"{name}: holds no pixels")
    image.load()
    operation = _UPRIGHT.get(_orientation(image))
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_eight_bits(np.asarray(image), image.mode, name))
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    elif "transparency" in image.info and image.mode != "RGB":
        image = image.copy()  # the caller's image keeps its transparency
        del image.info["transparency"]  # alpha is dropped anyway; with it, convert() warns about some palettes
    if operation is not None:
        image = image.transpose(operation)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata beside good pixels: shown as stored, as viewers do
        return 1


def _to_eight_bits(values: NDArray[Any], mode: str, name: str) -> NDArray[np.uint8]:
    """Scale one deep grey channel to 0..255."""
    low, high = values.min().item(), values.max().item()
    limit = 255 if mode == "F" else 65535
    if not (low >= 0 and high <= limit):  # also where a value is not a number
        raise ImageError(f"{name}: values {low:g}..{high:g} are outside 0..{limit}; convert it to 8 bits first")
    if mode == "F" and 0 < high <= 1:
        raise ImageError(f"{name}: floating-point values in 0..1; multiply by 255 and convert to uint8 first")
    scaled: NDArray[Any] = np.rint(values) if mode == "F" else (values.astype(np.uint32) + 128) // 257
    return scaled.astype(np.uint8)  # 257 = 65535 / 255, rounded to the nearest
