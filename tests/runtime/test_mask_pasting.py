import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from autotimm.runtime.mask_pasting import paste_masks

SIZES = [(40, 60), (7, 200), (1, 1), (333, 12)]


def boxes_about(size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Boxes from a thousandth of a pixel to more than the image, clipped to it; some along and on its edges."""
    height, width = size
    frame = np.array([width, height, width, height])
    middle = random.uniform(-0.1, 1.1, (30, 2)) * [width, height]
    sides = np.exp(random.uniform(np.log(1e-3), np.log(2.0 * max(size)), (30, 2)))
    boxes = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1).clip(0, frame)
    edges = np.array([[0, 0, 1, 1], [0, 0.2, 1, 0.8], [0.9, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]])
    return np.concatenate([boxes, edges * frame, np.floor(boxes[:5])]).astype(np.float32)


@pytest.mark.parametrize("cells", [7, 28])
@pytest.mark.parametrize("size", SIZES)
def test_the_same_pixels_as_torchvision(size: tuple[int, int], cells: int) -> None:
    random = np.random.default_rng(cells)
    boxes = boxes_about(size, random)
    probabilities = random.random((len(boxes), cells, cells), dtype=np.float32)
    expected = paste_masks_in_image(torch.from_numpy(probabilities)[:, None], torch.from_numpy(boxes), size)
    regions = paste_masks(probabilities, boxes, size, 0.5)
    found = np.stack([region.whole(size) for region in regions])
    margin = (expected[:, 0].numpy() - 0.5).astype(np.float64)
    different = found != (margin > 0)
    assert np.abs(margin[different]).max(initial=0.0) < 1e-5  # the last bit of a sum decides
    assert different.sum() <= 1
    assert found.any()
    expected_areas = coco_mask.area(coco_mask.encode(np.asfortranarray(found.transpose(1, 2, 0), dtype=np.uint8)))
    assert [region.area for region in regions] == expected_areas.tolist()


def test_a_huge_image_costs_only_the_box() -> None:
    size = (40_000, 60_000)  # 2.4 gigapixels
    boxes = np.array([[59_990, 39_980, 60_000, 40_000], [100.25, 7.5, 130, 80]], np.float32)
    probabilities = np.ones((2, 28, 28), np.float32)
    at_corner, inside = paste_masks(probabilities, boxes, size, 0.5)
    assert at_corner.pixels[1:, 1:].all()  # but for the border of the grid
    assert (at_corner.top + at_corner.pixels.shape[0], at_corner.left + at_corner.pixels.shape[1]) == size
    expected = paste_masks_in_image(torch.ones(1, 1, 28, 28), torch.from_numpy(boxes[1:]), (100, 200))[0, 0] > 0.5
    np.testing.assert_array_equal(inside.whole((100, 200)), expected.numpy())


def test_a_box_may_reach_out_of_the_image() -> None:
    """In a letterboxed photo the network may see a box reach into the padding: the part inside keeps its mask."""
    size = (30, 40)
    probabilities = np.zeros((1, 14, 14), np.float32)
    probabilities[:, :, 7:] = 1.0
    boxes = np.array([[-20, 5, 20, 25]], np.float32)
    expected = paste_masks_in_image(torch.from_numpy(probabilities)[:, None], torch.from_numpy(boxes), size)[0, 0] > 0.5
    (region,) = paste_masks(probabilities, boxes, size, 0.5)
    np.testing.assert_array_equal(region.whole(size), expected.numpy())
    assert region.whole(size)[6:24, 1:19].all()
    (outside,) = paste_masks(probabilities, np.array([[50, 5, 90, 25]], np.float32), size, 0.5)
    assert outside.area == 0


def test_the_threshold_is_exceeded_not_reached() -> None:
    boxes = np.array([[2, 2, 30, 30]], np.float32)
    half = np.full((1, 28, 28), 0.5, np.float32)
    assert paste_masks(half, boxes, (40, 40), 0.5)[0].area == 0
    assert paste_masks(half, boxes, (40, 40), 0.49)[0].area > 600
    assert paste_masks(half[:0], boxes[:0], (40, 40), 0.5) == ()
