import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import maskrcnn_loss, project_masks_on_boxes

from autotimm.losses.masks import mask_loss, mask_targets
from autotimm.regions import MaskCrops
from autotimm.runtime.mask_regions import MaskRegion

FRAME = (64, 96)
BINS = 14


def two_images() -> tuple[list[MaskCrops], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Masks as crops and whole; boxes of 15 to 28 pixels, which torchvision samples twice a bin as well; objects."""
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    crops, whole, boxes, objects = [], [], [], []
    for count in (3, 2):
        regions = [
            MaskRegion(int(random.integers(0, 30)), int(random.integers(0, 50)), random.random((30, 40)) < 0.6)
            for _ in range(count)
        ]
        crops.append(MaskCrops.of(regions))
        whole.append(torch.from_numpy(np.stack([region.whole(FRAME) for region in regions])).to(torch.uint8))
        corner = torch.rand(8, 2, generator=generator) * torch.tensor([66.0, 34.0]) + 1
        boxes.append(torch.cat((corner, corner + torch.rand(8, 2, generator=generator) * 12.5 + 15), dim=1))
        objects.append(torch.randint(0, count, (8,), generator=generator))
    return crops, whole, boxes, objects


def test_targets_and_loss_are_torchvisions() -> None:
    """Its boxes are moved by the half pixel that its ``aligned=False`` is off."""
    crops, whole, boxes, objects = two_images()
    targets = mask_targets(crops, boxes, objects, BINS, FRAME)
    expected = [
        project_masks_on_boxes(masks, box - 0.5, index, BINS)
        for masks, box, index in zip(whole, boxes, objects, strict=True)
    ]
    torch.testing.assert_close(targets, torch.cat(expected), atol=1e-5, rtol=0)
    assert 0.1 < targets.mean() < 0.9
    labels = [torch.tensor([1, 0, 3]), torch.tensor([2, 1])]
    logits = torch.randn(16, 4, BINS, BINS, generator=torch.Generator().manual_seed(1))
    own = torch.cat([image_labels[index] for image_labels, index in zip(labels, objects, strict=True)])
    theirs = maskrcnn_loss(logits, [box - 0.5 for box in boxes], whole, labels, objects)
    torch.testing.assert_close(mask_loss(logits, own, targets), theirs, atol=1e-6, rtol=0)


def test_half_precision_is_computed_in_full() -> None:
    logits = torch.full((1, 1, 2, 2), 30.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mask_loss(logits, torch.tensor([0]), torch.zeros(1, 2, 2))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(30.0)


def test_without_regions_it_is_zero_and_has_a_gradient() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
