import copy

import pytest
import torch
from torch import Tensor, nn

from autotimm.models import BackboneConfig
from autotimm.models.backbones import create_backbone
from autotimm.models.memory_layout import guard_strided_convolutions


def layouts_seen(convolution: nn.Module) -> list[bool]:
    seen: list[bool] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].is_contiguous())

    convolution.register_forward_pre_hook(look)
    return seen


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_strided_stems_train_on_contiguous_pixels(name: str) -> None:
    network = create_backbone(BackboneConfig(name, pretrained=False), num_classes=2)
    (stem,) = (
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.kernel_size == (1, 1)
    )
    assert stem.stride == (2, 2)
    seen = layouts_seen(stem)
    pixels = torch.rand(2, 64, 64, 3).permute(0, 3, 1, 2)
    network.train()(pixels).sum().backward()
    network.eval()(pixels)
    assert seen == [True, False]


def test_gradients_are_those_of_contiguous_pixels() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 48, 1, stride=2)
    guarded = copy.deepcopy(plain)
    guard_strided_convolutions(guarded)
    pixels = torch.rand(4, 224, 224, 3).permute(0, 3, 1, 2)
    guarded(pixels).square().sum().backward()
    plain(pixels.contiguous()).square().sum().backward()
    torch.testing.assert_close(guarded.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    "convolution",
    [nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1, stride=2), nn.Conv2d(8, 8, 1, 2, groups=8)],
)
def test_others_keep_their_layout(convolution: nn.Conv2d) -> None:
    guard_strided_convolutions(convolution)
    seen = layouts_seen(convolution)
    convolution(torch.rand(2, 8, 8, convolution.in_channels).permute(0, 3, 1, 2))
    assert seen == [False]
