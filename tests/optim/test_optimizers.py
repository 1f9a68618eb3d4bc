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
    decayed = next(g for g in parameter_groups(wrapper, 0.05) if g.weight_decay).params
    assert wrapper.network.pos_embed.ndim == 3
    assert all(parameter is not wrapper.network.pos_embed for parameter in decayed)
    assert any(parameter is wrapper.network.blocks[0].attn.qkv.weight for parameter in decayed)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "convnext_atto", "test_resnet"])
def test_layer_decay_is_timms(name: str) -> None:
    wrapper = nn.Module()
    network = wrapper.network = timm.create_model(name, pretrained=False, num_classes=2)
    wrapper.other = nn.Linear(2, 2)
    scale = {
        id(parameter): group["lr_scale"]
        for group in timm.optim.param_groups_layer_decay(network, layer_decay=0.7)
        for parameter in group["params"]
    }
    optimizer = build_optimizer(wrapper, "adamw", 0.1, 0.05, layer_decay=0.7)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len({round(rate, 9) for rate in rates.values()}) > 3
    for parameter in wrapper.parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 * scale.get(id(parameter), 1.0))


def test_parts_of_a_model_learn_at_their_own_rates() -> None:
    """The longest prefix counts, layer decay comes on top, and a schedule keeps the ratios."""
    wrapper = nn.Module()
    wrapper.network = timm.create_model("test_vit", pretrained=False, num_classes=2)
    scales = {"network.": 0.1, "network.head.": 1.0}
    optimizer = build_optimizer(wrapper, "sgd", 0.5, 0.05, layer_decay=0.5, lr_scales=scales)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates[id(wrapper.network.head.weight)] == 0.5
    last = len(wrapper.network.blocks) - 1
    assert rates[id(wrapper.network.blocks[last].mlp.fc1.weight)] == pytest.approx(0.5 * 0.1 * 0.5)
    before = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in before])


def test_mistakes_in_learning_rates() -> None:
    with pytest.raises(ConfigError, match=r"layer_decay is 1\.5"):
        build_optimizer(timm.create_model("test_vit"), "sgd", 0.1, 0.0, layer_decay=1.5)
    with pytest.raises(ConfigError, match="layers timm can tell apart"):
        build_optimizer(small_network(), "sgd", 0.1, 0.0, layer_decay=0.5)


def test_frozen_parameters_can_be_taken_along() -> None:
    """Without a gradient they stay as they are, weight decay or not; with one they learn."""
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = build_optimizer(network, "adamw", 0.1, 0.5, include_frozen=True)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    before = network[0].weight.detach().clone()
    for trains in (False, True):
        network[0].requires_grad_(trains)
        network(torch.randn(2, 3, 6, 6)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(network[0].weight, before) is not trains


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
