"""One training step of YOLOX-nano against the official arithmetic written plainly, and what SimOTA costs:
``python -m autotimm.benchmarks.training_step``.

The plain step has the same weights and the same optimiser, but the stem stacks the four phases of the pixels, the
pyramid pools with three windows, and the loss follows the official description term by term, box by box. Both losses
are checked to agree before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.benchmarks.timing import clock, warm_up
from autotimm.dense import DenseOutputs, anchor_points, decode_yolox
from autotimm.losses.simota import assign
from autotimm.losses.yolox import YOLOXLoss
from autotimm.models.yolox.blocks import ConvBlock, Focus, SPPBottleneck
from autotimm.models.yolox.network import YOLOXNetwork
from autotimm.models.yolox.sizes import find_size

CLASSES, BATCH, SIDE, BOXES = 80, 8, 416, 7
"""COCO has about seven boxes an image."""

Targets = tuple[list[Tensor], list[Tensor]]


class PlainFocus(nn.Module):
    """Stack top-left, bottom-left, top-right and bottom-right pixels, then convolve."""

    def __init__(self, focus: Focus) -> None:
        super().__init__()
        self.conv: ConvBlock = focus.conv

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stem."""
        phases = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        stacked: Tensor = self.conv(torch.cat(phases, dim=1))
        return stacked


class PlainSPP(nn.Module):
    """Three separate poolings of 5, 9 and 13 pixels."""

    def __init__(self, block: SPPBottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2
        self.pools = nn.ModuleList(nn.MaxPool2d(window, stride=1, padding=window // 2) for window in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = self.conv1(x)
        pooled: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))
        return pooled


def plainly(network: YOLOXNetwork) -> YOLOXNetwork:
    """A copy of the network with the plain blocks in place."""
    plain = copy.deepcopy(network)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Focus):
                setattr(module, name, PlainFocus(child))
            elif isinstance(child, SPPBottleneck):
                setattr(module, name, PlainSPP(child))
    return plain


def plain_loss(outputs: DenseOutputs, points: Tensor, strides: Tensor, targets: Targets) -> Tensor:
    """The official loss without L1, image by image and box by box."""
    decoded = decode_yolox(outputs.boxes, points, strides).transpose(1, 2)
    objectness, classes = outputs.objectness.transpose(1, 2), outputs.classes.transpose(1, 2)
    found, iou_loss, class_loss = 0, decoded.sum() * 0, decoded.sum() * 0
    objectness_target = torch.zeros_like(objectness)
    for image, (boxes, labels) in enumerate(zip(*targets, strict=True)):
        with torch.no_grad():
            chosen, owner, overlap = plain_assignment(
                decoded[image], objectness[image], classes[image], points, strides, boxes, labels
            )
        found += len(chosen)
        objectness_target[image, chosen] = 1.0
        predicted, wanted = decoded[image, chosen], boxes[owner]
        iou_loss = iou_loss + (1 - _plain_iou(wanted, predicted).diagonal() ** 2).sum()
        soft = F.one_hot(labels[owner], CLASSES) * overlap.unsqueeze(1)
        class_loss = class_loss + F.binary_cross_entropy_with_logits(classes[image, chosen], soft, reduction="sum")
    objectness_loss = F.binary_cross_entropy_with_logits(objectness, objectness_target, reduction="sum")
    return (5.0 * iou_loss + objectness_loss + class_loss) / max(found, 1)


def plain_assignment(
    decoded: Tensor, objectness: Tensor, classes: Tensor, points: Tensor, strides: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """SimOTA as described: candidates near any centre, a cost for every pair over all classes, top k box by box."""
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    near = ((points.T[None] - centers).abs() < 1.5 * strides[None, :, None]).all(dim=2)
    candidates = near.any(dim=0)
    overlap = _plain_iou(boxes, decoded[candidates])
    one_hot = F.one_hot(labels, CLASSES).float()[:, None].expand(-1, overlap.shape[1], -1)
    probability = (objectness[candidates].sigmoid() * classes[candidates].sigmoid()).sqrt()
    probability = probability[None].expand(len(boxes), -1, -1)
    class_cost = F.binary_cross_entropy(probability, one_hot, reduction="none").sum(dim=2)
    cost = class_cost + 3.0 * -(overlap + 1e-8).log() + 1e6 * ~near[:, candidates]
    claims = torch.zeros_like(cost)
    top = min(10, cost.shape[1])
    wanted = overlap.topk(top, dim=1).values.sum(dim=1).int().clamp(min=1)
    for box in range(len(boxes)):
        claims[box, cost[box].topk(int(wanted[box]), largest=False).indices] = 1.0
    contested = claims.sum(dim=0) > 1
    if contested.any():
        cheapest = cost[:, contested].argmin(dim=0)
        claims[:, contested] = 0.0
        claims[cheapest, contested.nonzero()[:, 0]] = 1.0
    taken = claims.sum(dim=0) > 0
    owner = claims[:, taken].argmax(dim=0)
    return candidates.nonzero()[:, 0][taken], owner, (claims * overlap).sum(dim=0)[taken]


def _plain_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU ``[n, m]`` of xyxy boxes ``[n, 4]`` and ``[m, 4]``."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared + 1e-16)


def make_targets(images: int, boxes: int) -> Targets:
    """Random boxes of 20 to 200 pixels inside the frame."""
    corners = torch.rand(images, boxes, 2) * (SIDE - 200)
    all_boxes = torch.cat((corners, corners + 20 + torch.rand(images, boxes, 2) * 180), dim=2)
    return list(all_boxes), list(torch.randint(0, CLASSES, (images, boxes)))


def steps(network: YOLOXNetwork, targets: Targets) -> tuple[Callable[[], float], Callable[[], float]]:
    """Our step and the plain one: each runs forward, loss, backward and the optimiser, and returns the loss."""
    points, strides = anchor_points(SIDE, SIDE, network.strides)
    loss = YOLOXLoss(CLASSES)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE)).float()

    def ours(outputs: DenseOutputs) -> Tensor:
        return loss(outputs, points, strides, *targets, use_l1=False)["loss"]

    def plain(outputs: DenseOutputs) -> Tensor:
        return plain_loss(outputs, points, strides, targets)

    def make(model: YOLOXNetwork, criterion: Callable[[DenseOutputs], Tensor]) -> Callable[[], float]:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4)

        def step() -> float:
            optimizer.zero_grad()
            value = criterion(model(images))
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            return float(value.detach())

        return step

    return make(network, ours), make(plainly(network), plain)


def simota_milliseconds(boxes: int) -> float:
    """Median time of one image's assignment."""
    points, strides = anchor_points(SIDE, SIDE, (8, 16, 32))
    count = points.shape[1]
    raw = torch.randn(1, 4, count) * 0.3
    (image_boxes,), (labels,) = make_targets(1, boxes)
    predicted = decode_yolox(raw, points, strides)[0]
    objectness, classes = torch.randn(1, count), torch.randn(CLASSES, count)

    def call() -> object:
        return assign(predicted, objectness, classes, points, strides, boxes=image_boxes, labels=labels)

    warm_up(call)
    return 1000 * statistics.median(clock(call) for _ in range(30))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure one training step of YOLOX-nano.")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each (default 15)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours, plain = steps(YOLOXNetwork(find_size("yolox-nano"), CLASSES).train(), make_targets(BATCH, BOXES))
    first, reference = ours(), plain()
    if abs(first - reference) > 1e-3 * reference:
        raise SystemExit(f"the two steps do not compute the same loss: {first} and {reference}")
    pairs = [(clock(ours), clock(plain)) for _ in range(arguments.steps)]
    table = Table("what", "milliseconds", box=None)
    table.add_row(f"one step, batch {BATCH} at {SIDE}", f"{1000 * statistics.median(our for our, _ in pairs):.0f}")
    table.add_row("the same, official arithmetic", f"{1000 * statistics.median(other for _, other in pairs):.0f}")
    for boxes in (1, 20, 200):
        table.add_row(f"SimOTA, {boxes} boxes", f"{simota_milliseconds(boxes):.2f}")
    console = Console()
    console.print(table)
    console.print(f"ratio, step by step: {statistics.median(our / other for our, other in pairs):.3f} (budget 1.0)")
    console.print(f"loss of the first step: {first:.4f} and {reference:.4f}; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
