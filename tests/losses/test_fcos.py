"""Against torchvision's FCOS, which gets our anchor points: its own lie at the corners of the cells."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection import fcos as theirs

from autotimm.dense import DenseOutputs, anchor_points
from autotimm.losses.fcos import FCOSLoss, assign_by_location, check_ranges, default_ranges
from autotimm.runtime.errors import ConfigError

CLASSES = 4
LEVELS = (8, 16, 32, 64, 128)
POINTS, STRIDES = anchor_points(320, 384, LEVELS)
NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
Truths = list[tuple[Tensor, Tensor]]


def truths(seed: int, counts: list[int]) -> Truths:
    """Boxes of all sizes, some of them beyond the image; no two of nearly the same area."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 330 - 20
        size = torch.exp(torch.rand(count, 2, generator=generator) * 5.8 + 1)
        area = size.prod(dim=1)
        apart = (area[:, None] - area).abs() + 1e9 * torch.eye(count)
        kept = apart.amin(dim=1) > 16
        boxes = torch.cat((corner, corner + size), dim=1)[kept]
        found.append((boxes, torch.randint(0, CLASSES, (len(boxes),), generator=generator)))
    return found


def predictions(images: int, seed: int = 0) -> DenseOutputs:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(images, channels, len(STRIDES), generator=generator) for channels in (4, 1, CLASSES)]
    parts[0] = parts[0] * 2 + 3
    return DenseOutputs(*(part.requires_grad_() for part in parts))


def in_torchvision(outputs: DenseOutputs, data: Truths) -> tuple[dict[str, Tensor], list[Tensor]]:
    """torchvision's losses and its matched indices."""
    seen: list[Tensor] = []
    head = theirs.FCOSHead(32, 1, CLASSES)

    def compute(targets: Any, head_outputs: Any, anchors: Any, matched: list[Tensor]) -> Any:
        seen.extend(matched)
        return head.compute_loss(targets, head_outputs, anchors, matched)

    anchors = torch.cat((POINTS - STRIDES / 2, POINTS + STRIDES / 2)).T
    losses = theirs.FCOS.compute_loss(
        SimpleNamespace(center_sampling_radius=1.5, head=SimpleNamespace(compute_loss=compute)),
        [{"boxes": boxes, "labels": labels} for boxes, labels in data],
        {
            "cls_logits": outputs.classes.transpose(1, 2),
            "bbox_regression": outputs.boxes.relu().transpose(1, 2),
            "bbox_ctrness": outputs.objectness.transpose(1, 2),
        },
        [anchors] * len(data),
        [int((stride == STRIDES).sum()) for stride in LEVELS],
    )
    return losses, seen


def loss_of(outputs: DenseOutputs, data: Truths, **weights: float) -> dict[str, Tensor]:
    boxes, labels = zip(*data, strict=True)
    return FCOSLoss(CLASSES, LEVELS, default_ranges(LEVELS), **weights)(outputs, POINTS, STRIDES, boxes, labels)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_torchvisions(seed: int) -> None:
    data = [*truths(seed, [1, 30, 200]), NOTHING]
    _, matched = in_torchvision(predictions(4), data)
    ours = FCOSLoss(CLASSES, LEVELS, default_ranges(LEVELS)).assign(POINTS, STRIDES, [boxes for boxes, _ in data])
    torch.testing.assert_close(ours, torch.stack(matched))
    assert len({STRIDES[at].item() for at in (ours[2] >= 0).nonzero()}) >= 4


def test_losses_and_gradients_are_torchvisions() -> None:
    data = [*truths(5, [12, 40]), NOTHING]
    outputs, copies = predictions(3), predictions(3)
    expected, _ = in_torchvision(copies, data)
    losses = loss_of(outputs, data)
    names = {"class_loss": "classification", "box_loss": "bbox_regression", "centerness_loss": "bbox_ctrness"}
    for ours, name in names.items():
        torch.testing.assert_close(losses[ours], expected[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["loss"], sum(expected.values()), rtol=1e-5, atol=1e-6)
    losses["loss"].backward()
    sum(expected.values()).backward()
    for part, other in zip(outputs, copies, strict=True):
        torch.testing.assert_close(part.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_weights_and_the_focal_loss_by_its_definition() -> None:
    data = truths(1, [10, 10])
    outputs = predictions(2)
    plain = loss_of(outputs, data)
    weighted = loss_of(outputs, data, class_weight=0.5, box_weight=2.0, centerness_weight=3.0)
    for name, factor in {"class_loss": 0.5, "box_loss": 2.0, "centerness_loss": 3.0}.items():
        torch.testing.assert_close(weighted[name], factor * plain[name])
    # alpha 1/2 and gamma 0 are half the cross-entropy
    matched = FCOSLoss(CLASSES, LEVELS, default_ranges(LEVELS)).assign(POINTS, STRIDES, [boxes for boxes, _ in data])
    entropy = torch.zeros(())
    for image, (_, labels) in enumerate(data):
        wanted = torch.zeros(CLASSES, len(STRIDES))
        for point in (matched[image] >= 0).nonzero()[:, 0]:
            wanted[labels[matched[image, point]], point] = 1
        entropy = entropy + F.binary_cross_entropy(outputs.classes[image].sigmoid(), wanted, reduction="sum")
    found = loss_of(outputs, data, focal_alpha=0.5, focal_gamma=0.0)
    torch.testing.assert_close(found["class_loss"], entropy / 2 / plain["num_foreground"], rtol=1e-4, atol=0.0)


def test_a_batch_without_boxes_teaches_background_only() -> None:
    outputs = predictions(2)
    losses = loss_of(outputs, [NOTHING, NOTHING])
    assert losses["num_foreground"] == losses["box_loss"] == losses["centerness_loss"] == 0
    losses["loss"].backward()
    assert (outputs.classes.grad > 0).all()  # every class becomes less likely
    assert not outputs.boxes.grad.any()
    assert not outputs.objectness.grad.any()


def test_where_it_differs_from_torchvision() -> None:
    """A distance on the bound of two levels, and areas that a float32 beside 1e8 cannot tell apart."""
    at, stride = torch.tensor([[36.0], [36.0]]), torch.tensor([16.0])
    wide = torch.tensor([[0.0, 0.0, 100.0, 72.0]])  # its farthest side is 64 to the right of the point
    for lower, upper, expected in ((0.0, 64.0, 0), (64.0, 128.0, -1)):
        found = assign_by_location(at, stride, torch.tensor([lower]), torch.tensor([upper]), wide)
        assert found.tolist() == [expected]
    near = torch.tensor([[0.0, 0.0, 70.0, 70.0], [0.0, 0.0, 70.0, 69.99]])
    zero, far = torch.zeros(1), torch.full((1,), torch.inf)
    assert assign_by_location(at, stride, zero, far, near).tolist() == [1]


def test_boxes_without_area_are_background() -> None:
    flat = torch.tensor([[100.0, 100.0, 100.0, 140.0], [100.0, 100.0, 90.0, 90.0]])
    losses = loss_of(predictions(1), [(flat, torch.tensor([0, 1]))])
    assert losses["num_foreground"] == 0
    assert torch.isfinite(losses["loss"])


def test_low_precision_is_computed_in_float32() -> None:
    data = truths(2, [20])
    low = DenseOutputs(*(part.detach().bfloat16() for part in predictions(1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss_of(low, data)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    torch.testing.assert_close(losses, loss_of(DenseOutputs(*(part.float() for part in low)), data))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_class(label: int) -> None:
    boxes = torch.tensor([[10.0, 12.0, 40.0, 50.0]])
    with pytest.raises(ConfigError, match=f"labels are {label}..{label}, but the network has 4 classes"):
        loss_of(predictions(1), [(boxes, torch.tensor([label]))])


def test_the_papers_ranges() -> None:
    assert default_ranges(LEVELS) == [(0, 64), (64, 128), (128, 256), (256, 512), (512, torch.inf)]
    assert check_ranges([[0, 32], [16, 64]], (8, 16)) == [(0, 32), (16, 64)]
    for wrong in ([[0, 64]], [[0, 64], [128, 64]], [[0, 64], [64]], [[-1, 64], [64, 128]]):
        with pytest.raises(ConfigError, match=r"one \(from, to\) in pixels for each of the 2 levels"):
            check_ranges(wrong, (8, 16))
