import contextlib
import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import DataError, ImageError, list_images, load_image
from autotimm.runtime.images import image_size

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (7, 11, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (7, 11)).astype(np.uint16)
DEEP[0, :4] = 0, 65535, 128, 129


def bomb(side: int) -> bytes:
    """A valid PNG header that promises side x side pixels, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "RGBX"])
@pytest.mark.parametrize("as_file", [False, True])
def test_every_8_bit_mode_is_what_pillow_converts_it_to(mode: str, as_file: bool, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(RGB[..., 0]))
    expected = np.asarray(image.convert("RGB"))
    source: Image.Image | Path = image
    if as_file:
        if mode in ("HSV", "RGBX", "YCbCr"):
            pytest.skip("no file format that keeps it bit by bit")
        source = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
        image.save(source)
    loaded = load_image(source)
    np.testing.assert_array_equal(loaded, expected)
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_transparent_palette_gives_its_colours_without_a_warning(transparency: int | bytes, tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("P")
    expected = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "palette.png", transparency=transparency)
    np.testing.assert_array_equal(load_image(tmp_path / "palette.png"), expected)
    with Image.open(tmp_path / "palette.png") as opened:
        np.testing.assert_array_equal(load_image(opened), expected)
        assert "transparency" in opened.info


def test_premultiplied_alpha_is_undone() -> None:
    image = Image.new("RGBA", (3, 2), (200, 100, 50, 255)).convert("RGBa")
    assert load_image(image)[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_grey_files_are_scaled(name: str, tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / name)
    loaded = load_image(tmp_path / name)
    np.testing.assert_array_equal(loaded, np.repeat(np.rint(DEEP / 257.0)[..., None], 3, axis=2))
    assert loaded[0, :4, 0].tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_16_bit_grey_images_are_scaled(mode: str) -> None:
    if mode == "I":
        image = Image.fromarray(DEEP.astype(np.int32))
    else:
        data = DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, (11, 7), data)
    assert image.mode == mode
    np.testing.assert_array_equal(load_image(image)[..., 1], np.rint(DEEP / 257.0))


def test_a_deep_image_out_of_range_is_not_clipped() -> None:
    with pytest.raises(ImageError, match=r"values -4\.\.7 are outside 0\.\.65535"):
        load_image(Image.fromarray(np.array([[-4, 7]], np.int32)))
    with pytest.raises(ImageError, match=r"outside 0\.\.255"):
        load_image(Image.fromarray(np.array([[0, 255.6]], np.float32)))
    with pytest.raises(ImageError, match="nan"):
        load_image(Image.fromarray(np.array([[0, np.nan]], np.float32)))
    with pytest.raises(ImageError, match="multiply by 255"):
        load_image(Image.fromarray(np.array([[0, 0.5]], np.float32)))


def test_floats_are_rounded() -> None:
    loaded = load_image(Image.fromarray(np.array([[0, 1.4, 1.6, 255]], np.float32)))
    assert loaded[0, :, 2].tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((7, 11, 3), RGB), ((7, 11, 4), RGB), ((7, 11), RGB[..., [0, 0, 0]]), ((7, 11, 1), RGB[..., [0, 0, 0]])],
)
def test_arrays(shape: tuple[int, ...], expected: np.ndarray) -> None:
    array = np.concatenate([RGB, RGB[..., :1]], axis=2)[..., : shape[2]] if len(shape) == 3 else RGB[..., 0]
    loaded = load_image(array)
    np.testing.assert_array_equal(loaded, expected)
    assert loaded.flags.c_contiguous


def test_an_rgb_array_is_not_copied() -> None:
    assert load_image(RGB) is RGB


@pytest.mark.parametrize(
    "array",
    [
        RGB.astype(np.float32),
        RGB.astype(np.int64),
        RGB[None],
        RGB[..., :2],
        RGB.transpose(2, 0, 1),
        RGB[0, 0],
        np.empty((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_what_is_accepted(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"uint8, RGB \[H, W, 3\]|no pixels"):
        load_image(array)


@pytest.mark.parametrize("source", [None, 3, b"bytes", [RGB]])
def test_other_objects_are_refused(source: object) -> None:
    with pytest.raises(ImageError, match="must be a path, a PIL image or a uint8 array"):
        load_image(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    # The meaning of the eight values by where row 0 and column 0 of the stored picture are seen (EXIF 2.32, 4.6.4).
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :8] = 255, 0, 0  # top left
    upright[:8, -8:] = 0, 255, 0  # top right
    upright[-8:, :8] = 0, 0, 255  # bottom left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    image.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}))
    assert image_size(path) == (24, 40)
    with Image.open(path) as opened:
        for loaded in (load_image(path), load_image(opened)):
            assert loaded.shape == upright.shape
            for y, x in ((3, 3), (3, -4), (-4, 3), (-4, -4)):
                np.testing.assert_allclose(loaded[y, x].astype(int), upright[y, x], atol=70)


def test_the_size_of_a_png_is_read_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.new("RGB", (40, 24)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"IDAT") + 6])
    assert image_size(path) == (24, 40)
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(path)


def test_the_size_of_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image at all")
    for name, says in (("none.png", "no such file"), ("text.png", "is not an image")):
        with pytest.raises(ImageError, match=says):
            image_size(tmp_path / name)


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
    image.save(tmp_path / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow says that the EXIF data is corrupt
        assert load_image(tmp_path / "odd.jpg").shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_frame_of_an_animation(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    path = tmp_path / f"animated{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(load_image(path)[5, 5].astype(int), [255, 0, 0], atol=3)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


BAD_FILES = {
    "truncated.jpg": (jpeg()[:900], "cannot be decoded: image file is truncated"),
    "headless.jpg": (jpeg()[:30], "cannot be decoded"),
    "empty.png": (b"", "is empty"),
    "text.jpg": (b"this is not a picture at all", "is not an image that can be read here"),
    "one_byte.png": (b"\x89", "is not an image that can be read here"),
    "header.png": (bomb(10)[:40], "cannot be decoded"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is not an image that can be read here"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_give_one_line_with_path_and_cause(name: str, tmp_path: Path) -> None:
    content, cause = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert cause in message
    assert "\n" not in message


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(str(tmp_path))


def test_a_lazily_opened_image_that_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "truncated.jpg"
    path.write_bytes(jpeg()[:900])
    with Image.open(path) as image, pytest.raises(ImageError, match="cannot be decoded"):
        load_image(image)


def test_random_damage_is_always_an_image_or_an_image_error(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for suffix in ("jpg", "png", "gif", "bmp", "tif", "webp"):
        image = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        image.save(tmp_path / f"whole.{suffix}")
        whole = np.frombuffer((tmp_path / f"whole.{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[random.integers(0, min(200, len(whole)), 4)] = random.integers(0, 256, 4)
            path = tmp_path / f"damaged.{suffix}"
            path.write_bytes(damaged.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns about odd TIFF tags
                with contextlib.suppress(ImageError):
                    assert load_image(path).dtype == np.uint8


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(13_000))
    before = Image.MAX_IMAGE_PIXELS
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=r"13000 x 13000 is 169 megapixels, refused .* limit is 89"):
            load_image(path)
    assert not seen
    assert time.perf_counter() - start < 1
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_pixel_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(RGB).save(path)
    assert load_image(path, max_pixels=77).shape == RGB.shape
    with pytest.raises(ImageError, match="refused"):
        load_image(path, max_pixels=76)


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "c.webp", "inside/d.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.webp"]
    assert [path.name for path in list_images(str(tmp_path), recursive=True)] == ["a.png", "b.JPG", "c.webp", "d.jpeg"]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image file"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        list_images(tmp_path / "missing")
