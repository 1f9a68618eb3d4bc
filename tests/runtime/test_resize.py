import tracemalloc

import numpy as np
import pytest
import timm.data
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image

from autotimm.runtime import Placement, Preprocess, fit_image

SIZES = [(1, 1), (1, 37), (53, 1), (100, 200), (480, 640), (333, 500), (720, 1280), (16, 16), (3000, 4000)]
INTERPOLATION = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "lanczos": transforms.InterpolationMode.LANCZOS,
}


def picture(height: int, width: int) -> np.ndarray:
    """Smooth gradients, hard edges and noise."""
    random = np.random.default_rng(height * 10_007 + width)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([y * 255 / max(1, height - 1), x * 255 / max(1, width - 1), (x + y) % 256], axis=2)
    image = smooth.astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 256, 3)
    noisy = image[: height // 3]
    noisy[...] = random.integers(0, 256, noisy.shape)
    return image


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def torch_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", antialias=False)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("target", [(64, 64), (48, 96), (224, 224), (7, 5)])
def test_bilinear_without_antialias_is_torchs(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*source)
    fitted, placement = fit_image(image, Preprocess(target, fit="stretch", antialias=False))
    exact = torch_bilinear(image, *target)
    # Half a level of rounding and under half a level of 8-bit row weights.
    assert np.abs(fitted - exact).max() < 1.01
    assert largest_difference(fitted, np.rint(exact)) <= 1
    assert abs(float((fitted - exact).mean())) < 0.2
    assert placement == Placement(source, target, (0, 0))
    assert fitted.flags.c_contiguous


def test_bilinear_at_its_worst_is_within_one_level() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        height, width, target_height, target_width = random.integers(1, 90, 4)
        image = (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
        fitted, _ = fit_image(image, Preprocess((int(target_height), int(target_width)), antialias=False))
        exact = torch_bilinear(image, int(target_height), int(target_width))
        assert largest_difference(fitted, np.rint(exact)) <= 1


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("align", ["center", "top_left"])
@pytest.mark.parametrize("antialias", [False, True])
def test_letterbox(source: tuple[int, int], align: str, antialias: bool) -> None:
    image = picture(*source)
    preprocess = Preprocess((96, 128), fit="letterbox", align=align, antialias=antialias, pad_value=77)  # type: ignore[arg-type]
    fitted, placement = fit_image(image, preprocess)
    height, width = placement.resized_size
    assert height == 96 or width == 128 or min(source) == 1
    top, left = placement.offset
    assert (top, left) == ((0, 0) if align == "top_left" else ((96 - height) // 2, (128 - width) // 2))
    if antialias:
        inside = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    else:
        inside = np.rint(torch_bilinear(image, height, width))
    expected = np.full((96, 128, 3), 77)
    expected[top : top + height, left : left + width] = inside
    assert largest_difference(fitted, expected) <= 1


@pytest.mark.parametrize("source", [*SIZES, (500, 333), (1, 400), (257, 256)])
@pytest.mark.parametrize("interpolation", INTERPOLATION)
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875, 0.95])
def test_antialiased_crop_is_torchvisions(source: tuple[int, int], interpolation: str, crop_fraction: float) -> None:
    image = picture(*source)
    if max(source) == 4000 and crop_fraction != 0.875:
        pytest.skip("once is enough for the large one")
    fitted, _ = fit_image(
        image,
        Preprocess((96, 96), fit="crop", interpolation=interpolation, crop_fraction=crop_fraction),  # type: ignore[arg-type]
    )
    reference = transforms.Compose(
        [
            transforms.Resize(int(96 / crop_fraction), interpolation=INTERPOLATION[interpolation]),
            transforms.CenterCrop(96),
        ]
    )(Image.fromarray(image))
    assert largest_difference(fitted, np.asarray(reference)) <= 1


@pytest.mark.parametrize("source", [(40, 900), (900, 40), (2, 5000)])
def test_an_extreme_crop_is_pillows_box(source: tuple[int, int]) -> None:
    image = picture(*source)
    fitted, placement = fit_image(image, Preprocess((96, 96), fit="crop", crop_fraction=0.875))
    whole = Image.fromarray(image).resize(placement.resized_size[::-1], Image.Resampling.BILINEAR)
    top, left = (-edge for edge in placement.offset)
    difference = np.abs(fitted.astype(int) - np.asarray(whole.crop((left, top, left + 96, top + 96))))
    assert difference.max() <= 2  # either axis first: two roundings
    assert difference.mean() < 0.05


@pytest.mark.parametrize("source", [(100, 200), (480, 640), (640, 480), (333, 500), (90, 90)])
@pytest.mark.parametrize(("size", "crop_fraction"), [((96, 96), 0.875), ((64, 112), 0.9), ((112, 64), 1.0)])
def test_crop_is_timms_evaluation_transform(
    source: tuple[int, int], size: tuple[int, int], crop_fraction: float
) -> None:
    image = picture(*source)
    fitted, _ = fit_image(image, Preprocess(size, fit="crop", interpolation="bicubic", crop_fraction=crop_fraction))
    transform = timm.data.create_transform(
        (3, *size), interpolation="bicubic", crop_pct=crop_fraction, mean=(0, 0, 0), std=(1, 1, 1)
    )
    reference = transform(Image.fromarray(image)).permute(1, 2, 0).numpy() * 255
    assert largest_difference(fitted, np.rint(reference)) <= 1


@pytest.mark.parametrize("interpolation", INTERPOLATION)
def test_antialiased_stretch_is_pillows(interpolation: str) -> None:
    image = picture(123, 321)
    fitted, _ = fit_image(image, Preprocess((64, 80), interpolation=interpolation))  # type: ignore[arg-type]
    resample = Image.Resampling[interpolation.upper()]
    np.testing.assert_array_equal(fitted, np.asarray(Image.fromarray(image).resize((80, 64), resample)))


def test_crop_without_antialias_is_the_middle_of_the_whole() -> None:
    image = picture(150, 333)
    preprocess = Preprocess((64, 64), fit="crop", crop_fraction=0.8, antialias=False)
    fitted, placement = fit_image(image, preprocess)
    whole = np.rint(torch_bilinear(image, *placement.resized_size))
    top, left = (-edge for edge in placement.offset)
    assert largest_difference(fitted, whole[top : top + 64, left : left + 64]) <= 1


@pytest.mark.parametrize("source", [(1, 1), (50, 70), (97, 31), (480, 640)])
@pytest.mark.parametrize("antialias", [False, True])
def test_nearest_is_the_pixel_under_the_centre(source: tuple[int, int], antialias: bool) -> None:
    image = picture(*source)
    fitted, _ = fit_image(image, Preprocess((64, 48), interpolation="nearest", antialias=antialias))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(pixels, (64, 48), mode="nearest-exact")[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(fitted, expected)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
def test_an_image_of_the_right_size_is_left_alone(fit: str, antialias: bool) -> None:
    image = picture(64, 96)
    fitted, placement = fit_image(image, Preprocess((64, 96), fit=fit, antialias=antialias))  # type: ignore[arg-type]
    assert fitted is image
    assert placement == Placement((64, 96), (64, 96), (0, 0))


def test_padding_alone_copies_the_pixels() -> None:
    image = picture(48, 64)
    fitted, _ = fit_image(image, Preprocess((64, 64), fit="letterbox", antialias=False))
    np.testing.assert_array_equal(fitted[8:56], image)
    assert (fitted[:8] == 114).all()
    assert (fitted[56:] == 114).all()


def test_views_and_read_only_arrays_are_accepted() -> None:
    image = picture(80, 120)
    image.flags.writeable = False
    preprocess = Preprocess((40, 40), antialias=False)
    fitted, _ = fit_image(image[::2, ::2], preprocess)
    np.testing.assert_array_equal(fitted, fit_image(image[::2, ::2].copy(), preprocess)[0])
    assert fitted.flags.writeable


@pytest.mark.parametrize("source", [(1, 4000), (4000, 1), (2, 30_000)])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("fit", ["letterbox", "crop", "stretch"])
def test_extreme_shapes_take_little_memory(source: tuple[int, int], fit: str, antialias: bool) -> None:
    image = picture(*source)
    tracemalloc.start()
    fitted, _ = fit_image(image, Preprocess((224, 224), fit=fit, antialias=antialias))  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fitted.shape == (224, 224, 3)
    # The scaled image would be 224 x 896,000 or larger: 600 MB. (Pillow's own memory is not traced, but it computes
    # the box only; the time of this test would show it.)
    assert peak < 20e6
