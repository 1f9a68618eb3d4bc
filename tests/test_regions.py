import numpy as np
import torch
from torchvision.ops import roi_align

from autotimm.regions import MaskCrops
from autotimm.runtime.mask_regions import MaskRegion

FRAME = (40, 60)


def blobs(count: int) -> list[MaskRegion]:
    """Irregular masks, some of which touch the sides of the frame."""
    random = np.random.default_rng(0)
    regions = []
    for index in range(count):
        height, width = (int(side) for side in random.integers(1, 30, 2))
        top = (0, FRAME[0] - height, int(random.integers(0, FRAME[0] - height + 1)))[index % 3]
        left = (0, FRAME[1] - width, int(random.integers(0, FRAME[1] - width + 1)))[index // 3 % 3]
        regions.append(MaskRegion(top, left, random.random((height, width)) < 0.7))
    return regions


def inside(generator: torch.Generator, count: int) -> torch.Tensor:
    """Boxes in the frame, of which some have its sides."""
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * 1.2 - 0.1
    return (corners.clamp(0, 1) * torch.tensor([FRAME[1], FRAME[0]])).flatten(1)


def test_samples_of_crops_are_those_of_whole_masks() -> None:
    regions = blobs(9)
    generator = torch.Generator().manual_seed(0)
    boxes = inside(generator, 60)
    index = torch.randint(0, 9, (60,), generator=generator)
    found = MaskCrops.of(regions).sample(boxes, index, 14, FRAME)
    whole = torch.from_numpy(np.stack([region.whole(FRAME) for region in regions])).float()[:, None]
    rows = torch.cat((index[:, None].float(), boxes), dim=1)
    expected = roi_align(whole, rows, 14, sampling_ratio=2, aligned=True)[:, 0]
    assert expected.mean() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_no_objects_and_no_boxes() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    for regions in ([], blobs(2)):
        assert MaskCrops.of(regions).sample(torch.zeros(0, 4), nothing, 7, FRAME).shape == (0, 7, 7)
    empty = MaskCrops.of([MaskRegion(0, 0, np.zeros((0, 0), bool))])
    assert not empty.sample(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), nothing.new_zeros(1), 7, FRAME).any()
