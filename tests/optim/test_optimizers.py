import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from autotimm.optim.optimizers import build_optimizer, list_optimizers, parameter_groups
from autotimm.runtime.errors import ConfigError


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 4, 2))


def test_only_weights_are_decayed() -> None:
    network = small_network()
    optimizer = build_optimizer(network, "sgd", 0.1, 0.01, {})
    decayed = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    assert {id(p) for p in decayed} == {id(network[0].weight), id(network[4].weight)}
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(everything) == len(list(network.parameters()))


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
    wrapper = nn.Module()
    wrapper.network = timm.create_model("test_vit", pretrained=False, num_classes=2)
    decayed = next(g for g in parameter_groups(wrapper, 0.05) if g["weight_decay"])["params"]
    assert wrapper.network.pos_embed.ndim == 3
    assert all(parameter is not wrapper.network.pos_embed for parameter in decayed)
    assert any(parameter is wrapper.network.blocks[0].attn.qkv.weight for parameter in decayed)


def test_frozen_parameters_are_left_out() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = build_optimizer(network, "adamw", 1e-3, 0.0)
    assert all(p.requires_grad for group in optimizer.param_groups for p in group["params"])
    network.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(network, "adamw", 1e-3, 0.0)


@pytest.mark.parametrize("name", list_optimizers())
def test_every_listed_optimizer_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    network = small_network()
    before = network[4].weight.detach().clone()
    optimizer = build_optimizer(network, name, 1e-2, 1e-4)
    for _ in range(2):  # some only warm up in their first step
        optimizer.zero_grad()
        network(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
    assert torch.isfinite(network[4].weight).all()
    assert not torch.equal(before, network[4].weight)


def test_a_class_by_its_dotted_path() -> None:
    optimizer = build_optimizer(
        small_network(), {"class": "torch.optim.RMSprop", "params": {"alpha": 0.5}}, 0.1, 0.0, {"momentum": 0.3}
    )
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.defaults["alpha"] == 0.5
    assert optimizer.defaults["momentum"] == 0.3


@pytest.mark.parametrize(
    ("name", "kwargs", "says"),
    [
        ("adamm", {}, "adamw"),
        ("sgd", {"momentun": 0.5}, "did you mean momentum"),
        ("adamw", {"momentum": 0.5}, "option of optimizer adamw"),
        ("asgd", {"no_such": 1}, "asgd"),
        ("adamw", {"betas": 3}, "adamw"),
        ({"class": "torch.optim.NoSuch"}, {}, "NoSuch"),
        ({"class": "no_such_package.Adam"}, {}, "no_such_package"),
        ({"klass": "torch.optim.Adam"}, {}, "klass"),
        ({"class": "torch.nn.Identity"}, {}, "not a torch.optim.Optimizer"),
    ],
)
def test_mistakes_are_named(name: str | dict[str, str], kwargs: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_optimizer(small_network(), name, 1e-3, 0.0, kwargs)
