import pytest
import torch
from torch import nn

from autotimm.optim.optimizers import build_optimizer, list_optimizers
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


@pytest.mark.parametrize("name", list_optimizers())
def test_what_is_frozen_at_first_stays_until_it_is_unfrozen(name: str) -> None:
    torch.manual_seed(0)
    network = small_network()
    network[0].requires_grad_(False)
    before = network[0].weight.detach().clone()
    optimizer = build_optimizer(network, name, 1e-2, 1e-4, include_frozen=True)
    for phase in ("frozen", "unfrozen"):
        for _ in range(2):
            optimizer.zero_grad()
            network(torch.randn(4, 3, 6, 6)).square().sum().backward()
            optimizer.step()
        assert torch.equal(before, network[0].weight) == (phase == "frozen")
        network[0].requires_grad_(True)


def test_all_of_torchs_have_a_name_in_any_case() -> None:
    of_torch = [name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)]
    usable = set(of_torch) - {"Optimizer", "LBFGS", "SparseAdam"}  # a closure, sparse gradients
    assert {name.lower() for name in usable} <= set(list_optimizers()) | {"muon"}
    for name in usable - {"Adafactor", "Muon"}:  # of these names, timm's
        assert type(build_optimizer(small_network(), name, 1e-3, 0.0)) is getattr(torch.optim, name)


def test_each_part_learns_at_its_own_rate() -> None:
    network = small_network()
    optimizer = build_optimizer(network, "sgd", 0.1, 0.0, lr_scales={"0": 0.25})
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.randn(4, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    for index, (old, new) in enumerate(zip(before, network.parameters(), strict=True)):
        rate = 0.025 if index < 2 else 0.1
        torch.testing.assert_close(new.detach(), old - rate * new.grad)


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
        ("lookahed_adam", {}, "no optimizer 'lookahed_adam'"),
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
