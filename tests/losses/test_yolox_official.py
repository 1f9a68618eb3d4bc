"""Loss, assignments, gradients and batch norm of one training step, against the official implementation."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotimm.dense import DenseOutputs, anchor_points, decode_yolox
from autotimm.losses.simota import assign
from autotimm.losses.yolox import YOLOXLoss
from autotimm.models.yolox import YOLOXNetwork, read_official

TERMS = {
    "total_loss": "loss",
    "iou_loss": "iou_loss",
    "conf_loss": "objectness_loss",
    "cls_loss": "class_loss",
    "l1_loss": "l1_loss",
}


@dataclass
class Step:
    """One forward pass in training mode from the reference weights."""

    network: YOLOXNetwork
    outputs: DenseOutputs
    points: Tensor
    strides: Tensor


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "yolox" / "nano_train"


@pytest.fixture(scope="module")
def step(shared: Path, folder: Path) -> Step:
    size, num_classes, state = read_official(shared / "yolox" / "nano" / "model.pth")
    network = YOLOXNetwork(size, num_classes).train()
    network.load_state_dict(state)
    outputs = network(torch.from_numpy(np.load(folder / "input.npy")))
    return Step(network, outputs, *anchor_points(416, 416, network.strides))


def targets(folder: Path, case: str) -> tuple[list[Tensor], list[Tensor]]:
    boxes, labels = [], []
    for rows in torch.from_numpy(np.load(folder / f"targets_{case}.npy")):
        found = rows[rows.sum(dim=1) > 0]
        center, size = found[:, 1:3], found[:, 3:]
        boxes.append(torch.cat((center - size / 2, center + size / 2), dim=1))
        labels.append(found[:, 0].long())
    return boxes, labels


@pytest.mark.parametrize("case", ["main", "empty2nd"])
def test_assignments(folder: Path, step: Step, case: str) -> None:
    decoded = decode_yolox(step.outputs.boxes, step.points, step.strides)
    with np.load(folder / "simota_assignments.npz") as official:
        for image, (boxes, labels) in enumerate(zip(*targets(folder, case), strict=True)):
            network = (decoded[image], step.outputs.objectness[image], step.outputs.classes[image])
            match = assign(*network, step.points, step.strides, boxes=boxes, labels=labels)
            key = f"{case}_img{image}"
            if len(labels) == 0:
                assert f"{key}_fg_idx" not in official
                assert len(match.points) == 0
                continue
            assert match.points.tolist() == official[f"{key}_fg_idx"].tolist()
            assert match.boxes.tolist() == official[f"{key}_matched_gt"].tolist()
            np.testing.assert_allclose(match.iou.numpy(), official[f"{key}_matched_iou"], atol=1e-4)


@pytest.mark.parametrize("use_l1", [False, True])
@pytest.mark.parametrize("case", ["main", "empty2nd"])
def test_losses_and_gradients(folder: Path, step: Step, case: str, use_l1: bool) -> None:
    official: dict[str, Any] = json.loads((folder / "losses.json").read_text())[f"{case}_l1_{use_l1}"]
    boxes, labels = targets(folder, case)
    losses = YOLOXLoss(80)(step.outputs, step.points, step.strides, boxes, labels, use_l1=use_l1)
    for theirs, ours in TERMS.items():
        assert losses[ours].item() == pytest.approx(official["loss"][theirs], rel=1e-4, abs=1e-6), ours
    objects = sum(len(image) for image in labels)
    assert losses["num_foreground"].item() / objects == pytest.approx(official["loss"]["num_fg"])

    step.network.zero_grad()
    losses["loss"].backward(retain_graph=True)
    norms = {name: parameter.grad.norm().item() for name, parameter in step.network.named_parameters()}
    assert norms.keys() == official["grad_norms"].keys()
    for name, norm in norms.items():
        assert norm == pytest.approx(official["grad_norms"][name], rel=1e-3, abs=1e-6), name
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    assert total == pytest.approx(official["total_grad_norm"], rel=5e-4)
    assert total == pytest.approx(official["total_grad_norm_fp64"], rel=5e-4)


def test_batch_norm_after_one_forward(folder: Path, step: Step) -> None:
    state = step.network.state_dict()
    with np.load(folder / "bn_after_one_train_forward.npz") as official:
        assert set(official) == {key for key in state if ".running_" in key or key.endswith(".num_batches_tracked")}
        for key, value in official.items():
            np.testing.assert_allclose(
                state[key].numpy(), value, rtol=1e-4, atol=1e-5 * np.abs(value).max(), err_msg=key
            )
