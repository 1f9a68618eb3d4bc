"""Exactness of both NMS forms, against torchvision on more than a thousand sets of boxes."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from autotimm.export.graph.nms import ROUNDS, keep_by_nms_in_onnx, keep_by_onnx_operator, keep_by_tensor_rounds

CLASSES, COUNT = 3, 64
KINDS = ("uniform", "clustered", "ties", "identical", "flat", "one class", "none valid", "few valid")


def make_case(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes [P, 4], falling scores [P], valid [P], labels [P]; coordinates on a grid of 1/8 px.

    On that grid torchvision's class offsets are exact in float32, so that its answer is the mathematical one.
    """
    random = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    centers = rand(COUNT, 2) * 320
    sizes = 8 + rand(COUNT, 2) * 150
    if kind in ("clustered", "one class", "few valid"):
        home = torch.randint(0, 6, (COUNT,), generator=random)
        centers = (rand(6, 2) * 320)[home] + rand(COUNT, 2) * 24
        sizes = (30 + rand(6, 2) * 60)[home] + rand(COUNT, 2) * 12
    if kind == "identical":
        centers, sizes = centers[:1].expand(COUNT, 2), sizes[:1].expand(COUNT, 2)
    if kind == "flat":
        sizes = sizes * (rand(COUNT, 2) > 0.4)
    boxes = torch.cat((centers - sizes / 2, centers + sizes / 2), dim=1)
    boxes = (boxes * 8).round() / 8
    scores = rand(COUNT)
    if kind == "ties":
        scores = (scores * 4).round() / 4
    scores = scores.sort(descending=True, stable=True).values
    labels = torch.randint(0, CLASSES, (COUNT,), generator=random)
    if kind == "one class":
        labels = torch.zeros_like(labels)
    valid = rand(COUNT) > 0.1
    if kind == "none valid":
        valid = torch.zeros_like(valid)
    if kind == "few valid":
        valid = torch.arange(COUNT) < 3
    return boxes, scores, valid, labels


def keep_by_torchvision(boxes: Tensor, valid: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """The reference; ranks stand in for scores, since torchvision leaves the order of ties open."""
    members = valid.nonzero()[:, 0]
    ranks = -members.float()
    kept = torch.zeros(len(boxes))
    kept[members[batched_nms(boxes[members], ranks, labels[members], iou_threshold)]] = 1.0
    return kept


class OperatorForm(nn.Module):
    def __init__(self, iou_threshold: float) -> None:
        super().__init__()
        self.iou_threshold = iou_threshold

    def forward(self, boxes: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        return keep_by_onnx_operator(boxes, valid, labels, self.iou_threshold, CLASSES)


class TensorForm(OperatorForm):
    def forward(self, boxes: Tensor, valid: Tensor, labels: Tensor) -> Tensor:
        return keep_by_tensor_rounds(boxes, valid, labels, self.iou_threshold)


def in_onnxruntime(module: nn.Module) -> onnxruntime.InferenceSession:
    """The module as an ONNX Runtime session with a free batch dimension."""
    boxes, _, valid, labels = (torch.stack([part, part]) for part in make_case("uniform", 0))
    free = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (boxes, valid, labels),
            dynamo=True,
            opset_version=18,
            input_names=["boxes", "valid", "labels"],
            dynamic_shapes=(free, free, free),
            custom_translation_table={torch.ops.autotimm.keep_by_nms.default: keep_by_nms_in_onnx},
            verbose=False,
        )
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("iou_threshold", [0.45, 0.65])
def test_both_forms_equal_torchvision_on_a_thousand_cases(iou_threshold: float) -> None:
    cases = [make_case(kind, seed) for kind in KINDS for seed in range(130)]
    boxes, _, valid, labels = (torch.stack(parts) for parts in zip(*cases, strict=True))
    expected = torch.stack(
        [keep_by_torchvision(*parts, iou_threshold) for parts in zip(boxes, valid, labels, strict=True)]
    )
    assert len(cases) >= 1000
    assert 0.05 < expected.mean() < 0.9  # both answers occur
    assert torch.equal(keep_by_tensor_rounds(boxes, valid, labels, iou_threshold), expected)
    assert torch.equal(keep_by_onnx_operator(boxes, valid, labels, iou_threshold, CLASSES), expected)
    feed = {"boxes": boxes.numpy(), "valid": valid.numpy(), "labels": labels.numpy()}
    for form in (OperatorForm, TensorForm):
        (actual,) = in_onnxruntime(form(iou_threshold)).run(None, feed)
        np.testing.assert_array_equal(actual, expected.numpy(), err_msg=form.__name__)


def test_rounds_suffice_with_room_on_dense_clusters() -> None:
    """1000 candidates around 20 objects: how many rounds change anything."""
    needed = 0
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        home = torch.randint(0, 20, (1000,), generator=random)
        centers = (torch.rand(20, 2, generator=random) * 400)[home] + torch.randn(1000, 2, generator=random) * 12
        sizes = 40 + torch.rand(1000, 2, generator=random) * 40
        boxes = torch.cat((centers - sizes / 2, centers + sizes / 2), dim=1).unsqueeze(0)
        valid = torch.ones(1, 1000, dtype=torch.bool)
        labels = torch.zeros(1, 1000, dtype=torch.int64)
        final = keep_by_tensor_rounds(boxes, valid, labels, 0.65, rounds=200)
        rounds = next(
            n for n in range(1, 200) if torch.equal(keep_by_tensor_rounds(boxes, valid, labels, 0.65, n), final)
        )
        needed = max(needed, rounds)
    assert needed <= ROUNDS - 4


def test_an_adversarial_chain_needs_a_round_for_every_link() -> None:
    """Each box overlaps only its neighbour, so every decision waits for the one before it: the documented limit."""
    links = 30
    left = torch.arange(links).float() * 4
    boxes = torch.stack((left, torch.zeros(links), left + 10, torch.full((links,), 10.0)), dim=1).unsqueeze(0)
    valid = torch.ones(1, links, dtype=torch.bool)
    labels = torch.zeros(1, links, dtype=torch.int64)
    expected = keep_by_torchvision(boxes[0], valid[0], labels[0], 0.4)
    assert torch.equal(keep_by_tensor_rounds(boxes, valid, labels, 0.4, rounds=links)[0], expected)
    assert not torch.equal(keep_by_tensor_rounds(boxes, valid, labels, 0.4, rounds=links // 3)[0], expected)
    assert torch.equal(keep_by_onnx_operator(boxes, valid, labels, 0.4, 1)[0], expected)
