import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from autotimm.dense import DenseOutputs, anchor_points, decode_yolox
from autotimm.losses.simota import assign
from autotimm.losses.yolox import YOLOXLoss
from autotimm.runtime.errors import ConfigError

CLASSES = 4
POINTS, STRIDES = anchor_points(64, 64, (8, 16, 32))
NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
ONE = (torch.tensor([[10.0, 12.0, 40.0, 50.0]]), torch.tensor([1]))
TWO = (torch.tensor([[5.0, 5.0, 20.0, 20.0], [30.0, 28.0, 60.0, 62.0]]), torch.tensor([0, 3]))


def predictions(images: int, seed: int = 0) -> DenseOutputs:
    generator = torch.Generator().manual_seed(seed)
    count = len(STRIDES)
    parts = (torch.randn(images, channels, count, generator=generator) for channels in (4, 1, CLASSES))
    return DenseOutputs(*(part.requires_grad_() for part in parts))


def loss_of(outputs: DenseOutputs, truths: list[tuple[Tensor, Tensor]], use_l1: bool = False) -> dict[str, Tensor]:
    boxes, labels = zip(*truths, strict=True)
    return YOLOXLoss(CLASSES)(outputs, POINTS, STRIDES, boxes, labels, use_l1=use_l1)


def test_terms_add_up_and_follow_their_definitions() -> None:
    outputs = predictions(2)
    truths = [ONE, TWO]
    losses = loss_of(outputs, truths, use_l1=True)

    iou = objectness = classes = l1 = 0.0
    count = 0
    for image, (boxes, labels) in enumerate(truths):
        decoded = decode_yolox(outputs.boxes[image], POINTS, STRIDES).detach()
        network = (decoded, outputs.objectness[image], outputs.classes[image], POINTS, STRIDES)
        match = assign(*network, boxes=boxes, labels=labels)
        count += len(match.points)
        foreground = dict(zip(match.points.tolist(), match.boxes.tolist(), strict=True))
        for point, logit in enumerate(outputs.objectness[image, 0].tolist()):
            objectness += math.log1p(math.exp(-logit if point in foreground else logit))
        for point, box in foreground.items():
            overlap = box_iou(decoded[:, point][None], boxes[box][None]).item()
            iou += 1 - overlap**2
            for index, logit in enumerate(outputs.classes[image, :, point].tolist()):
                target = overlap if index == labels[box] else 0.0
                probability = 1 / (1 + math.exp(-logit))
                classes -= target * math.log(probability) + (1 - target) * math.log(1 - probability)
            x1, y1, x2, y2 = boxes[box].tolist()
            stride, (x, y) = STRIDES[point].item(), (POINTS[:, point] - STRIDES[point] / 2).tolist()
            wanted = ((x1 + x2) / 2 - x, (y1 + y2) / 2 - y)
            raw = outputs.boxes[image, :, point].tolist()
            l1 += sum(abs(raw[axis] - wanted[axis] / stride) for axis in (0, 1))
            l1 += abs(raw[2] - math.log((x2 - x1) / stride)) + abs(raw[3] - math.log((y2 - y1) / stride))
    expected = {"iou_loss": 5 * iou, "objectness_loss": objectness, "class_loss": classes, "l1_loss": l1}
    assert losses["num_foreground"].item() == count
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value / count, rel=1e-4), name
    assert losses["loss"].item() == pytest.approx(sum(expected.values()) / count, rel=1e-4)


def test_l1_only_when_asked_for() -> None:
    assert loss_of(predictions(1), [ONE])["l1_loss"].item() == 0
    assert loss_of(predictions(1), [ONE], use_l1=True)["l1_loss"].item() > 0


def test_an_empty_image_only_adds_background() -> None:
    outputs = predictions(2)
    alone = loss_of(DenseOutputs(*(part[:1] for part in outputs)), [ONE])
    both = loss_of(outputs, [ONE, NOTHING])
    for name in ("iou_loss", "class_loss", "num_foreground"):
        torch.testing.assert_close(both[name], alone[name])
    background = outputs.objectness[1].exp().log1p().sum() / alone["num_foreground"]
    torch.testing.assert_close(both["objectness_loss"], alone["objectness_loss"] + background)


@pytest.mark.parametrize("use_l1", [False, True])
def test_a_batch_without_objects(use_l1: bool) -> None:
    outputs = predictions(2)
    losses = loss_of(outputs, [NOTHING, NOTHING], use_l1)
    losses["loss"].backward()
    assert losses["num_foreground"].item() == 0
    torch.testing.assert_close(losses["loss"], outputs.objectness.exp().log1p().sum())
    torch.testing.assert_close(outputs.objectness.grad, outputs.objectness.sigmoid())
    # The other outputs take part, with no gradient: no parameter is left out of a distributed step.
    assert outputs.boxes.grad is not None
    assert outputs.classes.grad is not None
    assert not outputs.boxes.grad.any()
    assert not outputs.classes.grad.any()


def test_gradient_by_finite_differences() -> None:
    """SimOTA and the soft labels are constants of a step, so the foreground is held while the boxes move."""
    outputs = predictions(1)
    losses = loss_of(outputs, [ONE], use_l1=True)
    (losses["iou_loss"] + losses["l1_loss"]).backward()
    assert outputs.boxes.grad is not None
    decoded = decode_yolox(outputs.boxes[0], POINTS, STRIDES).detach()
    match = assign(decoded, outputs.objectness[0], outputs.classes[0], POINTS, STRIDES, boxes=ONE[0], labels=ONE[1])
    touched = outputs.boxes.grad[0].any(dim=0).nonzero()[:, 0]
    assert touched.tolist() == match.points.tolist()

    def value(raw: Tensor) -> float:
        at = match.points
        overlap = box_iou(decode_yolox(raw, POINTS[:, at], STRIDES[at]).T, ONE[0]).squeeze(1)
        center, size = (ONE[0][:, :2] + ONE[0][:, 2:]) / 2, ONE[0][:, 2:] - ONE[0][:, :2]
        offset = (center.T - POINTS[:, at]) / STRIDES[at] + 0.5
        target = torch.cat((offset, (size.T / STRIDES[at]).log()))
        return ((5 * (1 - overlap**2)).sum() + (raw - target).abs().sum()).item() / len(at)

    raw = outputs.boxes[0, :, match.points].detach().double()
    for side in range(4):
        step = torch.zeros_like(raw)
        step[side, 0] = 1e-5
        slope = (value(raw + step) - value(raw - step)) / 2e-5
        assert outputs.boxes.grad[0, side, match.points[0]].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_float32_under_autocast() -> None:
    outputs = predictions(1)
    low = DenseOutputs(*(part.detach().bfloat16() for part in outputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(low, [TWO], use_l1=True)
    expected = loss_of(DenseOutputs(*(part.float() for part in low)), [TWO], use_l1=True)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class(label: int) -> None:
    with pytest.raises(ConfigError, match=f"labels are {label}..{label}, but the network has 4 classes"):
        loss_of(predictions(1), [(ONE[0], torch.tensor([label]))])
