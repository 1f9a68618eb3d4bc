import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from autotimm.models.pyramid import FeaturePyramid


def test_it_is_torchvisions_with_the_same_weights() -> None:
    torch.manual_seed(0)
    channels = (8, 12, 20)
    ours = FeaturePyramid(channels, 128, extra_levels=2)
    theirs = FeaturePyramidNetwork(
        list(channels), 128, LastLevelP6P7(128, 128), norm_layer=lambda count: nn.GroupNorm(32, count)
    )
    parts = (theirs.inner_blocks, theirs.layer_blocks, theirs.extra_blocks)
    for own, other in zip((ours.laterals, ours.outputs, ours.extra), parts, strict=True):
        values = list(other.state_dict().values())
        own.load_state_dict(dict(zip(own.state_dict(), values, strict=True)))
    maps = [torch.randn(2, count, 16 >> level, 24 >> level) for level, count in enumerate(channels)]
    expected = theirs({str(level): features for level, features in enumerate(maps)})
    levels = ours(maps)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    for level, other in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(level, other)
