"""Batch norms folded into convolutions: the answers stay, whatever else reads what lies between."""

import pytest
import timm
import torch
from torch import Tensor, nn

from autotimm.export.graph.folding import fold_batch_norms
from autotimm.export.graph.half import in_half


def trained(network: nn.Module, pixels: Tensor) -> nn.Module:
    """With statistics of real activations, and weights of the norms that are not 1."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # of all that is seen
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    network.train()(pixels)
    return network.eval()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_nfnet", "test_vit3", "resnetv2_18"])
def test_the_answers_stay(name: str) -> None:
    pixels = torch.rand(4, 3, 64, 64) if "vit" not in name else torch.rand(4, 3, 96, 96)
    network = trained(timm.create_model(name, num_classes=5, **({"img_size": 96} if "vit" in name else {})), pixels)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batch_norms(network, pixels)
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), network(pixels), atol=1e-3, rtol=1e-3)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_variances_that_half_does_not_know() -> None:
    pixels = 255 * torch.rand(8, 3, 16, 16)
    network = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), pixels)
    with torch.no_grad():
        network[0].weight *= 1000
        network[1].running_mean *= 1000
        network[1].running_var *= 1e6
    assert float(network[1].running_var.max()) > 1e8
    half = in_half(network, pixels)
    with torch.no_grad():
        torch.testing.assert_close(half(pixels), network(pixels), atol=0.02, rtol=0.02)


class Shared(nn.Module):
    """What the convolution makes is read by its norm and once more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.layer(pixels)
        return found + self.norm(found)


def test_what_something_else_reads_too_is_left_alone() -> None:
    pixels = torch.rand(4, 3, 8, 8)
    network = trained(Shared(), pixels)
    folded = fold_batch_norms(network, pixels)
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), network(pixels))


class Twice(nn.Module):
    """One convolution under two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.second(self.layer(self.first(self.layer(pixels))))


def test_a_convolution_that_runs_twice_is_left_alone() -> None:
    pixels = torch.rand(4, 3, 8, 8)
    network = trained(Twice(), pixels)
    folded = fold_batch_norms(network, pixels)
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels), network(pixels))
