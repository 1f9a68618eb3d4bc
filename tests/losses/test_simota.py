import math

import pytest
import torch
from torch import Tensor

from autotimm.dense import anchor_points, decode_yolox
from autotimm.losses.simota import Assignment, assign

CLASSES = 5


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou_of(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def plain_simota(network: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> dict[int, tuple[int, float]]:
    """One loop per sentence of the paper and the official settings: ``{point: (box, IoU)}``."""
    predicted, objectness, classes, points, strides = network
    near = {}
    for point in range(len(strides)):
        x, y = points[:, point].tolist()
        reach = 1.5 * strides[point].item()
        near[point] = [max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < reach for x1, y1, x2, y2 in boxes.tolist()]
    candidates = [point for point in near if any(near[point])]

    iou, cost = {}, {}
    for box, (corners, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        for point in candidates:
            iou[box, point] = iou_of(corners, predicted[:, point].tolist())
            cross_entropy = 0.0
            for index in range(CLASSES):
                joint = sigmoid(objectness[0, point].item()) * sigmoid(classes[index, point].item())
                cross_entropy -= math.log(math.sqrt(joint) if index == label else 1 - math.sqrt(joint))
            cost[box, point] = cross_entropy - 3 * math.log(iou[box, point] + 1e-8) + 1e6 * (not near[point][box])

    claims: dict[int, list[int]] = {}
    for box in range(len(boxes)):
        best_ious = sorted((iou[box, point] for point in candidates), reverse=True)[:10]
        wanted = max(1, int(sum(best_ious)))
        for point in sorted(candidates, key=lambda point, box=box: cost[box, point])[:wanted]:
            claims.setdefault(point, []).append(box)
    result = {}
    for point, claimants in claims.items():
        box = claimants[0]
        if len(claimants) > 1:
            box = min(range(len(boxes)), key=lambda box, point=point: cost[box, point])
        result[point] = (box, iou[box, point])
    return result


def as_dict(assignment: Assignment) -> dict[int, tuple[int, float]]:
    assert assignment.points.tolist() == sorted(set(assignment.points.tolist()))
    rows = zip(assignment.points.tolist(), assignment.boxes.tolist(), assignment.iou.tolist(), strict=True)
    return {point: (box, iou) for point, box, iou in rows}


def scene(seed: int, count: int, spread: float = 96.0) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points, strides = anchor_points(96, 96, (8, 16, 32))
    raw = torch.randn(4, len(strides), generator=generator) * 0.7 + torch.tensor([[0.5], [0.5], [1.0], [1.0]])
    objectness = torch.randn(1, len(strides), generator=generator) * 2
    classes = torch.randn(CLASSES, len(strides), generator=generator) * 2
    center = torch.rand(count, 2, generator=generator) * spread + (96 - spread) / 2
    half = torch.rand(count, 2, generator=generator) * 30 + 2
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    network = (decode_yolox(raw, points, strides), objectness, classes, points, strides)
    return network, torch.cat((center - half, center + half), dim=1), labels


@pytest.mark.parametrize(
    ("seed", "count", "spread"), [(0, 1, 96), (1, 3, 96), (2, 8, 96), (3, 25, 96), (4, 6, 10), (5, 12, 20), (6, 2, 0)]
)
def test_equals_plain_loops(seed: int, count: int, spread: float) -> None:
    network, boxes, labels = scene(seed, count, spread)
    ours = as_dict(assign(*network, boxes=boxes, labels=labels))
    expected = plain_simota(network, boxes, labels)
    assert {point: box for point, (box, _) in ours.items()} == {point: box for point, (box, _) in expected.items()}
    for point, (_, iou) in expected.items():
        assert ours[point][1] == pytest.approx(iou, rel=1e-4, abs=1e-6)


def test_no_box_no_foreground() -> None:
    network, _, _ = scene(0, 1)
    empty = assign(*network, boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    assert [len(part) for part in (empty.points, empty.boxes, empty.iou)] == [0, 0, 0]
    assert (empty.points.dtype, empty.boxes.dtype, empty.iou.dtype) == (torch.int64, torch.int64, torch.float32)


def test_a_box_out_of_reach_gets_no_point() -> None:
    network, boxes, labels = scene(0, 1)
    assert len(assign(*network, boxes=boxes + 500, labels=labels).points) == 0


def test_fewer_candidates_than_ten() -> None:
    points, strides = anchor_points(32, 32, (32,))
    predicted = torch.tensor([[4.0], [4.0], [28.0], [28.0]])
    match = assign(
        predicted,
        torch.zeros(1, 1),
        torch.zeros(CLASSES, 1),
        points,
        strides,
        boxes=predicted.T,
        labels=torch.tensor([2]),
    )
    assert as_dict(match) == {0: (0, pytest.approx(1.0))}


def test_boxes_without_area_do_not_break_it() -> None:
    network, boxes, labels = scene(0, 4)
    boxes[:2, 2:] = boxes[:2, :2]
    match = assign(*network, boxes=boxes, labels=labels)
    assert match.iou.isfinite().all()
    assert set(match.boxes.tolist()) == {0, 1, 2, 3}


def test_half_precision_outputs_cost_float32_and_no_gradient() -> None:
    network, boxes, labels = scene(1, 3)
    low = tuple(part.bfloat16().requires_grad_() for part in network[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = assign(*low, *network[3:], boxes=boxes, labels=labels)
    expected = assign(*(part.detach().float() for part in low), *network[3:], boxes=boxes, labels=labels)
    assert as_dict(match) == as_dict(expected)
    assert match.iou.dtype == torch.float32
    assert not match.iou.requires_grad
