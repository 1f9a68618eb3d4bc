from typing import Any

import pytest
import timm
import torch

from autotimm.models.backbones import BackboneConfig
from autotimm.models.pyramid import PyramidBackbone, create_pyramid_backbone
from autotimm.runtime.errors import ConfigError

STRIDES = (8, 16, 32)


def create(name: str, strides: tuple[int, ...] = STRIDES, **kwargs: Any) -> PyramidBackbone:
    return create_pyramid_backbone(BackboneConfig(name, pretrained=False, extra_kwargs=kwargs), strides)[0].eval()


@pytest.mark.parametrize(
    ("name", "indices", "options"),
    [
        ("test_resnet", (2, 3, 4), {}),
        ("test_convnext", (1, 2, 3), {}),
        ("resnet18", (2, 3, 4), {}),
        # channels last inside timm
        ("swin_tiny_patch4_window7_224", (1, 2, 3), {"strict_img_size": False, "embed_dim": 24, "depths": (1,) * 4}),
    ],
)
def test_its_maps_are_those_of_timms_feature_extractor(
    name: str, indices: tuple[int, ...], options: dict[str, Any]
) -> None:
    ours = create(name, **options)
    theirs = timm.create_model(name, features_only=True, out_indices=indices, **options).eval()
    assert len(theirs.state_dict()) == len(ours.body.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.body.state_dict().values(), strict=True)))
    pixels = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        maps, expected = ours(pixels), theirs(pixels)
    for found, other, stride, channels in zip(maps, expected, STRIDES, ours.channels, strict=True):
        assert found.shape == (2, channels, 96 // stride, 160 // stride)
        torch.testing.assert_close(found, other if other.shape == found.shape else other.permute(0, 3, 1, 2))
    assert ours.fixed_size is None


def test_a_plain_transformer_spreads_its_one_map() -> None:
    ours = create("test_vit")
    pixels = torch.randn(2, 3, 96, 160)
    whole = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    whole.load_state_dict(ours.body.state_dict(), strict=False)
    seen: list[torch.Tensor] = []
    whole.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        fine, middle, coarse = ours(pixels)
        whole(pixels)
    last = seen[0][:, whole.num_prefix_tokens :].transpose(1, 2).reshape(2, 64, 6, 10)
    torch.testing.assert_close(middle, last)
    # the maximum of each 2x2
    torch.testing.assert_close(coarse, last.unflatten(3, (5, 2)).unflatten(2, (3, 2)).amax(dim=(3, 5)))
    assert fine.shape == (2, 32, 12, 20)
    assert ours.channels == (32, 64, 64)


def test_finer_levels_of_larger_patches() -> None:
    ours = create("test_vit", patch_size=32)
    with torch.no_grad():
        assert [tuple(level.shape[1:]) for level in ours(torch.randn(1, 3, 64, 64))] == [
            (16, 8, 8),
            (32, 4, 4),
            (64, 2, 2),
        ]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("levit_128s", {}, "has feature maps at strides 16, 32, 64, and none at 8"),
        ("test_vit", {"patch_size": 14}, r"has a stride of 14 pixels .* patches of 8, 16 or 32"),
        ("inception_v3", {}, r"its map at stride 8 is \[1, 288, 13, 21\], but should be \[1, 288, 16, 24\]"),
        ("test_resnte", {}, "did you mean test_resnet"),
    ],
)
def test_a_backbone_that_cannot(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        create(name, **options)


def test_timms_own_arguments_go_through() -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        create("test_resnet", no_such_option=1)
    assert create("test_resnet", output_stride=32).channels == create("test_resnet").channels
    four = create("test_resnet", strides=(4, 8, 16, 32))
    assert len(four.channels) == 4


def test_a_network_of_one_input_size_says_so() -> None:
    assert create("test_mlp_mixer" if timm.is_model("test_mlp_mixer") else "mixer_s32_224").fixed_size is not None
