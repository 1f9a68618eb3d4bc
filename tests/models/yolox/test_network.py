import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotimm.models.yolox import YOLOXNetwork, find_size
from autotimm.models.yolox.blocks import Focus, SPPBottleneck
from autotimm.runtime.errors import ConfigError

# Parameters and state-dict keys of the official models with 80 classes.
OFFICIAL = {
    "yolox-nano": (912_159, 642),
    "yolox-tiny": (5_055_855, 462),
    "yolox-s": (8_968_255, 462),
    "yolox-m": (25_326_495, 606),
    "yolox-l": (54_208_895, 750),
    "yolox-x": (99_071_455, 894),
}


@pytest.fixture(scope="module")
def nano() -> YOLOXNetwork:
    torch.manual_seed(0)
    return YOLOXNetwork(find_size("nano"), 3).eval()


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_parameter_and_key_counts(name: str) -> None:
    with torch.device("meta"):
        network = YOLOXNetwork(find_size(name), 80)
    assert (sum(p.numel() for p in network.parameters()), len(network.state_dict())) == OFFICIAL[name]


def test_outputs_cover_three_levels(nano: YOLOXNetwork) -> None:
    with torch.no_grad():
        outputs = nano(torch.rand(2, 3, 64, 96) * 255)
    count = 8 * 12 + 4 * 6 + 2 * 3
    assert [tuple(part.shape) for part in outputs] == [(2, 4, count), (2, 1, count), (2, 3, count)]


def test_official_initialisation(nano: YOLOXNetwork) -> None:
    for layer in (*nano.head.cls_preds, *nano.head.obj_preds):
        torch.testing.assert_close(layer.bias, torch.full_like(layer.bias, -math.log(99)))
    norms = [module for module in nano.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 72)])
def test_sides_must_be_multiples_of_32(nano: YOLOXNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=f"{shape[2]}x{shape[3]}.*multiples of 32"):
        nano(torch.zeros(shape))


def test_no_classes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="num_classes is 0"):
        YOLOXNetwork(find_size("nano"), 0)


def test_focus_is_a_convolution_of_stacked_phases() -> None:
    torch.manual_seed(0)
    focus = Focus(3, 4).double().eval()
    x = torch.rand(2, 3, 10, 14, dtype=torch.float64)
    top_left, bottom_left = x[..., ::2, ::2], x[..., 1::2, ::2]
    top_right, bottom_right = x[..., ::2, 1::2], x[..., 1::2, 1::2]
    expected = focus.conv(torch.cat((top_left, bottom_left, top_right, bottom_right), dim=1))
    torch.testing.assert_close(focus(x), expected)


def test_pyramid_pooling_is_5_9_13() -> None:
    torch.manual_seed(0)
    spp = SPPBottleneck(8, 8).eval()
    x = torch.randn(1, 8, 16, 20)
    features = spp.conv1(x)
    pooled = [F.max_pool2d(features, window, stride=1, padding=window // 2) for window in (5, 9, 13)]
    torch.testing.assert_close(spp(x), spp.conv2(torch.cat((features, *pooled), dim=1)), rtol=0, atol=0)


def test_exports_with_a_free_batch(nano: YOLOXNetwork) -> None:
    example = torch.rand(2, 3, 64, 64) * 255
    program = torch.export.export(nano, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.rand(3, 3, 64, 64) * 255
    with torch.no_grad():
        for exported, eager in zip(program.module()(x), nano(x), strict=True):
            torch.testing.assert_close(exported, eager)
