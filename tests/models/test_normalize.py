import pytest
import torch
from torchvision.transforms import v2

from autotimm.models.normalize import Normalize
from autotimm.runtime import Preprocess

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_it_is_torchvisions(order: str) -> None:
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    channels = pixels.permute(0, 3, 1, 2)
    if order == "bgr":
        channels = channels.flip(1)
    mean, std = ([value / 255 for value in IMAGENET[key]] for key in ("mean", "std"))
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])(channels)
    actual = Normalize(Preprocess((5, 7), channel_order=order, **IMAGENET))(pixels)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_without_mean_and_std_pixels_stay_what_they_are() -> None:
    pixels = torch.arange(2 * 4 * 3, dtype=torch.uint8).reshape(1, 2, 4, 3)
    actual = Normalize(Preprocess((2, 4), channel_order="bgr"))(pixels)
    assert actual[0, :, 1, 2].tolist() == pixels[0, 1, 2].tolist()[::-1]


def test_it_leaves_nothing_in_a_state_dict() -> None:
    assert Normalize(Preprocess((2, 2), **IMAGENET)).state_dict() == {}
