"""Losses of one's own in place of terms: equal ones give equal numbers, from configuration to checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, sigmoid_focal_loss

from autotimm.data.batch import DetectionBatch
from autotimm.models import ObjectDetector, load_checkpoint
from autotimm.runtime.errors import ConfigError
from autotimm.runtime.pictures import generate

BCE = {"class": "torch.nn.BCEWithLogitsLoss", "params": {"reduction": "sum"}}


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """torchvision's, for each element."""
    assert logits.shape == targets.shape
    assert logits.dtype == torch.float32
    return sigmoid_focal_loss(logits, targets, 0.25, 2.0)


def squared_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Of the official YOLOX, for each row, written plainly."""
    assert predicted.shape == target.shape == (len(predicted), 4)
    low, high = torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (predicted, target)]
    return 1 - (shared / (areas[0] + areas[1] - shared)) ** 2


EQUAL: dict[str, dict[str, Any]] = {
    "fcos": {"classification": focal, "centerness": BCE},
    "yolox": {"classification": BCE, "objectness": F.binary_cross_entropy_with_logits, "box": squared_iou},
}


def detector(arch: str, **arguments: Any) -> ObjectDetector:
    standard = {"fpn_channels": 32, "head_num_convs": 1, "pretrained": False, "seed": 0}
    return ObjectDetector("test_resnet", 3, detection_arch=arch, **standard, **arguments)


def batch() -> DetectionBatch:
    images = torch.from_numpy(np.stack([generate(64, 96, seed) for seed in range(2)]))
    boxes = [torch.tensor([[10.0, 8.0, 50.0, 52.0], [60.0, 5.0, 75.0, 20.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]
    return DetectionBatch(images, boxes, labels, [], [])


@pytest.mark.parametrize("arch", EQUAL)
def test_equal_functions_give_equal_losses(arch: str, tmp_path: Path) -> None:
    weights = {"cls_loss_weight": 2.0, "centerness_loss_weight": 0.5}
    expected = detector(arch, **weights).train().losses(batch(), 0)
    functions = {name: one for name, one in EQUAL[arch].items() if name != "objectness"}
    if arch == "yolox":
        functions["objectness"] = BCE
    model = detector(arch, **weights, loss_fns=functions).train()
    found = model.losses(batch(), 0)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    restored = load_checkpoint(model.save(tmp_path / "model.ckpt"))
    assert isinstance(restored, ObjectDetector)
    assert restored.loss.loss_fns == {}  # not before training needs them
    torch.testing.assert_close(restored.train().losses(batch(), 0)["loss"], model.losses(batch(), 0)["loss"])
    assert set(restored.loss.loss_fns) == set(functions)


def test_weights_of_the_yolox_head_are_factors_on_its_terms() -> None:
    weights = {"cls_loss_weight": 2.0, "reg_loss_weight": 0.5, "centerness_loss_weight": 3.0}
    plain, weighted = (detector("yolox", **given).train().losses(batch(), 0) for given in ({}, weights))
    factors = {"class_loss": 2.0, "iou_loss": 0.5, "objectness_loss": 3.0}
    assert set(plain) == {"loss", "num_foreground", *factors}
    for name, factor in factors.items():
        torch.testing.assert_close(weighted[name], factor * plain[name])
    torch.testing.assert_close(weighted["loss"], torch.stack([weighted[name] for name in factors]).sum())


def test_another_loss_is_another_number() -> None:
    expected, found = (detector("fcos", **given).train().losses(batch(), 0) for given in ({}, {"loss_fns": CIOU}))
    assert found["box_loss"] != expected["box_loss"]
    assert found["class_loss"] == expected["class_loss"]
    found["loss"].backward()


CIOU = {"box": lambda predicted, target: complete_box_iou_loss(predicted, target, reduction="sum")}


def test_what_a_checkpoint_cannot_hold_is_told_when_it_is_needed(tmp_path: Path) -> None:
    restored = load_checkpoint(detector("fcos", loss_fns=CIOU).save(tmp_path / "model.ckpt"))
    with pytest.raises(ConfigError, match=r"give it again \(model.loss_fn, or model.loss.loss_fns\)"):
        restored.losses(batch(), 0)
    assert isinstance(restored, ObjectDetector)
    restored.loss.loss_fns.update(CIOU)
    assert restored.train().losses(batch(), 0)["loss"] > 0


@pytest.mark.parametrize(
    ("arch", "loss_fns", "message"),
    [
        ("fcos", {"boxes": BCE}, "did you mean box"),
        ("fcos", {"objectness": BCE}, "Known: box, centerness, classification"),
        ("yolox", {"centerness": BCE}, "Known: box, classification, objectness"),
        ("fcos", {"box": "torch.nn.NoLoss"}, "NoLoss"),
        ("fcos", {"box": 3}, "must be callable"),
        ("fcos", "torch.nn.L1Loss", "loss_fns is 'torch.nn.L1Loss', but must be losses by the terms"),
    ],
)
def test_losses_that_cannot_be(arch: str, loss_fns: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detector(arch, loss_fns=loss_fns)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda predicted, target: predicted[:, 0, :7], r"classification must give the sum.* shape \[2, 7\]"),
        (lambda predicted, target: 1.0, r"but gave 1\.0"),
    ],
)
def test_results_that_cannot_be(result: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detector("fcos", loss_fns={"classification": result}).train().losses(batch(), 0)
