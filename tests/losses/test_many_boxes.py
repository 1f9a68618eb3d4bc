"""Five hundred boxes in one image: a step of every loss goes through."""

from typing import Any

import pytest
import torch

from autotimm.data.batch import DetectionBatch
from autotimm.models import ObjectDetector, YOLOXDetector


def crowd(side: int, count: int) -> DetectionBatch:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * (side - 40)
    boxes = torch.cat((corners, corners + 6 + torch.rand(count, 2, generator=generator) * 30), dim=1)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=generator)
    return DetectionBatch(images, [boxes], [labels], [], [])


@pytest.mark.parametrize("kind", ["fcos", "yolox", "official"])
def test_a_step_with_five_hundred_boxes(kind: str) -> None:
    torch.manual_seed(0)
    model: Any
    if kind == "official":
        model = YOLOXDetector("yolox-nano", 3)
        model._trainer, model._l1_from = type("Trainer", (), {"num_training_batches": 1, "current_epoch": 0})(), 0.0
    else:
        model = ObjectDetector("test_resnet", 3, detection_arch=kind, pretrained=False, fpn_channels=32)
    losses = model.train().losses(crowd(320, 500), 0)
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert losses["num_foreground"] >= 250  # FCOS gives a point to one box only, SimOTA nearly every box one
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
