import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from autotimm.data.transforms import PRESETS, augment_labelled, check_augmentation
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.pictures import generate
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.resize import fit_image

LETTERBOX = Preprocess((96, 96), fit="letterbox", align="top_left", antialias=False)
CROP = Preprocess((64, 64), fit="crop", interpolation="bicubic", crop_fraction=0.875, mean=(124.0, 116.0, 104.0))
POLICIES = ("rand-m9-mstd0.5-inc1", "rand-mstd1-tweights", "augmix-m5-w4-d2", "original-mstd0.5", "v0", "3a")


def picture(height: int = 60, width: int = 90) -> np.ndarray:
    return generate(height, width, 0)


@pytest.mark.parametrize("augmentation", [*PRESETS, *POLICIES])
@pytest.mark.parametrize("preprocess", [CROP, LETTERBOX, replace(CROP, interpolation="lanczos")])
def test_the_same_seed_gives_the_same_pixels(augmentation: str, preprocess: Preprocess) -> None:
    assert check_augmentation(augmentation) == augmentation
    first, again = (augment_labelled(picture(), preprocess, augmentation, seed=5) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == (*preprocess.size, 3)
    np.testing.assert_array_equal(first, again)
    seeds = [augment_labelled(picture(), preprocess, augmentation, seed).tobytes() for seed in range(8)]
    assert len(set(seeds)) == {"light": 2, "none": 1}.get(augmentation, 8)


class Drawing:
    """A transform that draws from every global generator."""

    def __call__(self, image: Any) -> Any:
        draws = [torch.randint(256, (1,)).item(), np.random.randint(256), random.randrange(256)]  # noqa: NPY002
        return torch.tensor(draws, dtype=torch.uint8)[:, None, None].expand(3, 64, 64)


@pytest.mark.parametrize("augmentation", ["default", "strong", "augmix", "rand", Drawing()])
def test_the_global_generators_are_left_as_they_were(augmentation: Any) -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002

    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    augment_labelled(picture(), CROP, augmentation, seed=1)
    assert draw() == expected


def test_a_seed_governs_all_that_a_transform_draws() -> None:
    colours = {seed: augment_labelled(picture(), CROP, Drawing(), seed) for seed in (1, 2)}
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # noqa: NPY002
    np.testing.assert_array_equal(augment_labelled(picture(), CROP, Drawing(), 1), colours[1])
    assert (colours[1][0, 0] != colours[2][0, 0]).all()


def test_light_is_the_evaluations_resize_or_its_mirror_image() -> None:
    plain = fit_image(picture(), CROP)[0]
    mirrored = fit_image(np.ascontiguousarray(picture()[:, ::-1]), CROP)[0]
    seen = {augment_labelled(picture(), CROP, "light", seed).tobytes() for seed in range(8)}
    assert seen == {plain.tobytes(), mirrored.tobytes()}


@pytest.mark.parametrize(
    "policy", ["rand-m10-n8-p1-inc1", "rand-m0-n8-p1", "augmix-m10-mstd3", "v0", "v0r", "originalr"]
)
def test_timms_policies_are_taken_to_their_extremes(policy: str) -> None:
    for seed in range(40):
        augment_labelled(picture(), CROP, check_augmentation(policy), seed)


@pytest.mark.parametrize("augmentation", [*PRESETS, "augmix"])
def test_extreme_images(augmentation: str) -> None:
    for shape in ((1, 1), (1, 300), (300, 1)):
        for seed in range(4):
            assert augment_labelled(picture(*shape), CROP, augmentation, seed).shape == (64, 64, 3)


def test_strong_changes_colours_and_blackens_rectangles() -> None:
    grey = np.full((80, 80, 3), 128, dtype=np.uint8)
    frames = [augment_labelled(grey, CROP, "strong", seed) for seed in range(60)]
    blackened = [float((frame == 0).all(axis=2).mean()) for frame in frames]
    assert 0.1 < np.mean([part > 0 for part in blackened]) < 0.45
    assert max(blackened) < 0.4
    assert len({int(np.median(frame)) for frame in frames}) > 10


@pytest.mark.parametrize(
    ("transforms", "expected"),
    [
        (lambda image: image, fit_image(picture(), CROP)[0]),
        (v2.ToPILImage(), fit_image(picture(), CROP)[0]),
        (v2.Compose([v2.ToPILImage(), v2.Grayscale(1)]), None),
        (v2.Resize((64, 64)), v2.Resize((64, 64))(torch.from_numpy(picture()).permute(2, 0, 1)).permute(1, 2, 0)),
        (v2.RandomResizedCrop(64), None),
        (v2.RandomResizedCrop(80), None),
    ],
)
def test_transforms_of_ones_own(transforms: Any, expected: np.ndarray | None) -> None:
    given: list[Any] = []

    def watched(image: Any) -> Any:
        given.append(image)
        return transforms(image)

    frame = augment_labelled(picture(), CROP, watched, seed=0)
    assert isinstance(given[0], tv_tensors.Image)
    assert (given[0].dtype, given[0].shape) == (torch.uint8, (3, 60, 90))
    assert (frame.dtype, frame.shape) == (np.uint8, (64, 64, 3))
    if expected is not None:
        np.testing.assert_array_equal(frame, np.asarray(expected))


@pytest.mark.parametrize(
    ("transforms", "says"),
    [
        (v2.ToDtype(torch.float32, scale=True), "float32 .* normalisation belongs to the model"),
        (v2.Grayscale(1), r"uint8 \[1, 60, 90\]"),
        (lambda image: None, "NoneType"),
        (lambda image: Image.new("F", (4, 4), -3), "outside 0"),
    ],
)
def test_what_transforms_must_not_give(transforms: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        augment_labelled(picture(), CROP, transforms, seed=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ligth", "did you mean light"),
        ("randaug", "did you mean .*randaugment"),
        ("rand-x9", "timm does not take it"),
        ("rand-m9-nonsense", "section 'nonsense'"),
        ("original-m5", "timm does not take it"),
        ("v0-hello", "section 'hello'"),
    ],
)
def test_unknown_augmentation(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_augmentation(name)
