import pytest
import torch
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from autotimm.models.masks.align import align_regions, align_regions_portably, level_of

SIZE = (384, 512)


def levels(strides: tuple[int, ...], images: int = 2, channels: int = 5) -> list[torch.Tensor]:
    """Of values in 0..1: the coordinates of the portable form are exact to some 1e-5 cells."""
    generator = torch.Generator().manual_seed(0)
    height, width = SIZE
    return [torch.rand(images, channels, height // stride, width // stride, generator=generator) for stride in strides]


def boxes(count: int, images: int = 2) -> torch.Tensor:
    """Of all sizes, inside the input; some have its sides, and the last of each image has no area."""
    generator = torch.Generator().manual_seed(1)
    middle = torch.rand(images, count, 2, generator=generator)
    half = torch.rand(images, count, 2, generator=generator) ** 3 / 2 + 0.005
    sides = torch.tensor([SIZE[1], SIZE[0]])
    found = torch.cat(((middle - half).clamp(0, 1) * sides, (middle + half).clamp(0, 1) * sides), dim=2)
    found[:, -1] = 0.0
    return found


def test_the_level_is_that_of_the_paper() -> None:
    """Equation 1, with P4 (stride 16) for 224 pixels: torchvision's mapper of Mask R-CNN."""
    strides = (4, 8, 16, 32)
    sides = torch.cat((torch.rand(500) * 700 + 1, torch.tensor([112.0, 224.0, 448.0])))
    some = torch.stack((sides * 0, sides * 0, sides * 2, sides / 2), dim=1)
    expected = LevelMapper(2, 5, canonical_scale=224, canonical_level=4)([some])
    assert torch.equal(level_of(some, strides), expected)
    assert set(expected.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32), (32,)])
@pytest.mark.parametrize("bins", [7, 14])
def test_both_forms_are_torchvisions_on_the_level(strides: tuple[int, ...], bins: int) -> None:
    maps, some = levels(strides), boxes(40)
    chosen = level_of(some, strides)
    if len(strides) > 1:
        assert len(chosen.unique()) > 1
    portable = align_regions_portably(maps, strides, some, bins)
    exact = align_regions(maps, strides, list(some), bins).unflatten(0, (2, 40))
    for image in range(2):
        for index in range(40):
            level = int(chosen[image, index])
            expected = roi_align(
                maps[level][image : image + 1],
                [some[image, index : index + 1]],
                bins,
                1.0 / strides[level],
                sampling_ratio=2,
                aligned=True,
            )[0]
            torch.testing.assert_close(portable[image, index], expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(exact[image, index], expected, atol=1e-6, rtol=0)


def test_boxes_keep_their_place_in_half_precision() -> None:
    """From 256 on, bfloat16 has every second pixel only."""
    strides = (8, 16, 32)
    maps, some = [level.bfloat16() for level in levels(strides)], list(boxes(20))
    expected = align_regions([level.float() for level in maps], strides, some, 7)
    assert torch.equal(align_regions(maps, strides, some, 7).float(), expected)


def test_every_level_has_a_gradient() -> None:
    """Also one that no box is on, or DistributedDataParallel would wait for it."""
    strides = (8, 16, 32)
    for some in (boxes(3)[0, :1] * 0.01, torch.zeros(0, 4)):
        maps = [level.requires_grad_() for level in levels(strides, images=1)]
        align_regions(maps, strides, [some], 7).sum().backward()
        assert all(level.grad is not None for level in maps)
