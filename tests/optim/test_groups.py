import json
from pathlib import Path

import pytest
import timm
import timm.optim
import torch
from torch import nn

from autotimm.optim.groups import parameter_groups
from autotimm.optim.optimizers import build_optimizer
from autotimm.runtime.errors import ConfigError


class Model(nn.Module):
    """A timm network under the name it has in a task model, and parameters beside it."""

    def __init__(self, name: str = "test_vit") -> None:
        super().__init__()
        self.network = timm.create_model(name, pretrained=False, num_classes=2)
        self.beside = nn.Linear(2, 2)


def rates(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_groups_are_those_of_the_official_yolox_nano(shared: Path) -> None:
    state = torch.load(shared / "yolox/nano/model.pth", weights_only=True)["model"]
    network = nn.Module()  # the official parameters under their official names; buffers left out
    for key, value in state.items():
        if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue
        owner = network
        *path, leaf = key.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(leaf, nn.Parameter(value))
    expected = json.loads((shared / "yolox/nano_train/schedule_ema_optim.json").read_text())["sgd_param_groups_nano"]
    optimizer = build_optimizer(network, "sgd", 0.01, 5e-4, {"momentum": 0.9, "nesterov": True})
    ours = [
        {
            "n_tensors": len(group["params"]),
            "n_elem": sum(p.numel() for p in group["params"]),
            "weight_decay": group["weight_decay"],
            "momentum": group["momentum"],
            "nesterov": group["nesterov"],
        }
        for group in optimizer.param_groups
    ]
    assert ours == expected


def test_a_transformer_keeps_what_it_exempts_from_decay() -> None:
    model = Model()
    (decayed,) = (group["params"] for group in parameter_groups(model, 0.1, 0.05) if group["weight_decay"])
    assert model.network.pos_embed.ndim == 3
    assert all(parameter is not model.network.pos_embed for parameter in decayed)
    assert any(parameter is model.network.blocks[0].attn.qkv.weight for parameter in decayed)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "vit_tiny_r_s16_p8_224"]
)
def test_layer_decay_is_timms(name: str) -> None:
    model = Model(name)
    groups = timm.optim.param_groups_layer_decay(model.network, layer_decay=0.7)
    scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    expected = {name: 0.5 * scales.get(id(parameter), 1.0) for name, parameter in model.named_parameters()}
    assert rates(model, parameter_groups(model, 0.5, 0.05, layer_decay=0.7)) == pytest.approx(expected)
    assert len(set(expected.values())) > 5


def test_parts_have_factors_of_their_own() -> None:
    model = Model()
    lr = rates(model, parameter_groups(model, 1.0, 0.0, lr_scales={"network.": 0.1, "network.head.": 1.0}))
    assert {name: rate for name, rate in lr.items() if rate == 1.0}.keys() == {
        "network.head.weight",
        "network.head.bias",
        "beside.weight",
        "beside.bias",
    }
    assert set(lr.values()) == {0.1, 1.0}


def test_a_factor_is_of_a_whole_name() -> None:
    model = nn.ModuleDict({"layer1": nn.Linear(1, 1), "layer10": nn.Linear(1, 1)})
    lr = rates(model, parameter_groups(model, 1.0, 0.0, lr_scales={"layer1": 0.5, "layer10.bias": 2.0}))
    assert lr == {"layer1.weight": 0.5, "layer1.bias": 0.5, "layer10.weight": 1.0, "layer10.bias": 2.0}


def test_factors_and_layer_decay_multiply() -> None:
    model = Model()
    decayed = rates(model, parameter_groups(model, 1.0, 0.0, layer_decay=0.5))
    both = rates(model, parameter_groups(model, 1.0, 0.0, layer_decay=0.5, lr_scales={"network": 0.1}))
    assert both == pytest.approx({name: r * (0.1 if name[0] == "n" else 1) for name, r in decayed.items()})


def test_the_highest_rate_comes_first_and_schedules_keep_the_ratios() -> None:
    model = Model()
    optimizer = build_optimizer(model, "adamw", 1e-2, 0.05, layer_decay=0.5)
    before = [group["lr"] for group in optimizer.param_groups]
    assert before == sorted(before, reverse=True)
    assert before[0] == 1e-2
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in before])


def test_frozen_parameters_are_left_out_or_kept() -> None:
    model = Model()
    model.network.requires_grad_(False)
    assert set(rates(model, parameter_groups(model, 0.1, 0.0))) == {"beside.weight", "beside.bias"}
    everything = rates(model, parameter_groups(model, 0.1, 0.0, include_frozen=True))
    assert set(everything) == {name for name, _ in model.named_parameters()}
    model.requires_grad_(False)
    for include_frozen in (False, True):
        with pytest.raises(ConfigError, match="frozen"):
            parameter_groups(model, 0.1, 0.0, include_frozen=include_frozen)


def test_mistakes_are_named() -> None:
    model = Model()
    for layer_decay in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"layer_decay is {layer_decay}"):
            parameter_groups(model, 0.1, 0.0, layer_decay=layer_decay)
    with pytest.raises(ConfigError, match="layers timm knows"):
        parameter_groups(model.beside, 0.1, 0.0, layer_decay=0.5)
    with pytest.raises(ConfigError, match=r"'netwrk'; did you mean network"):
        parameter_groups(model, 0.1, 0.0, lr_scales={"netwrk.": 0.1})
    with pytest.raises(ConfigError, match="must be a positive number"):
        parameter_groups(model, 0.1, 0.0, lr_scales={"network": 0.0})
