from typing import Any

import pytest
import timm
import torch

from autotimm.models.backbones import BackboneConfig
from autotimm.models.pyramid.backbone import PyramidBackbone
from autotimm.models.semantic.backbone import create_semantic_backbone
from autotimm.runtime.errors import ConfigError


def create(name: str, output_stride: int | None = None, **kwargs: Any) -> PyramidBackbone:
    config = BackboneConfig(name, pretrained=False, extra_kwargs=kwargs)
    return create_semantic_backbone(config, output_stride)[0].eval()


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("test_resnet", None, (4, 16, 16)),
        ("test_resnet", 8, (4, 8, 8)),
        ("test_resnet", 32, (4, 16, 32)),
        ("test_efficientnet", None, (4, 16, 16)),
        ("test_convnext", 8, (4, 8, 8)),
    ],
)
def test_its_maps_are_those_of_timms_dilated_network(
    name: str, output_stride: int | None, strides: tuple[int, ...]
) -> None:
    ours = create(name, output_stride)
    assert ours.strides == strides
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride or 16).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.body.state_dict().values(), strict=True)))
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = ours(pixels), theirs(pixels)
    fine = next(found for found in expected if found.shape[2] == 16)
    for found, other in zip(maps, [fine, *expected[-2:]], strict=True):
        torch.testing.assert_close(found, other)
    for found, stride, channels in zip(maps, strides, ours.channels, strict=True):
        assert found.shape == (2, channels, 64 // stride, 96 // stride)


def test_networks_that_cannot_be_dilated_have_their_own_stride() -> None:
    swin = {"embed_dim": 24, "depths": (1, 1, 1, 1)}
    assert create("swin_tiny_patch4_window7_224", **swin).strides == (4, 16, 32)
    assert create("swin_tiny_patch4_window7_224", 32, **swin).strides == (4, 16, 32)
    plain = create("test_vit")
    assert plain.strides == (4, 16, 16)
    assert [tuple(found.shape[1:]) for found in plain(torch.zeros(1, 3, 64, 96))] == [
        (plain.channels[0], 16, 24),
        (64, 4, 6),
        (64, 4, 6),
    ]
    with pytest.raises(ConfigError, match=r"has no output_stride of 8: timm does not dilate it .*; its own is 32"):
        create("swin_tiny_patch4_window7_224", 8, **swin)
    with pytest.raises(ConfigError, match=r"has no output_stride of 32: .* its own is 16"):
        create("test_vit", 32)


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="output_stride is 4, but must be 8, 16 or 32"):
        create("test_resnet", 4)
    with pytest.raises(ConfigError, match="give output_stride to the segmentor"):
        create_semantic_backbone(BackboneConfig("test_resnet", False, extra_kwargs={"output_stride": 8}), None)
    with pytest.raises(ConfigError, match="there is no backbone 'test_resnat'"):
        create("test_resnat")
    with pytest.raises(ConfigError, match="levit_128s cannot be a pyramid: it has feature maps at strides 16, 32, 64"):
        create("levit_128s")
