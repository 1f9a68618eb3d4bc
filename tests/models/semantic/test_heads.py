"""Against torchvision's ASPP and FCN head on the same weights."""

import pytest
import torch
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead as TheirFCNHead

from autotimm.models.semantic.heads import AtrousPyramid, DeepLabHead, FCNHead


def settled(module: nn.Module) -> nn.Module:
    """With statistics that are not those of a new network, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(generator=generator)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return module.eval()


def test_fcn_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = settled(FCNHead(16, 5)), TheirFCNHead(16, 5).eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    pixels = torch.randn(2, 16, 6, 9)
    with torch.no_grad():
        torch.testing.assert_close(ours([torch.zeros(1), pixels]), theirs(pixels))


def test_the_pyramid_is_torchvisions_with_its_convolutions_parted() -> None:
    """Its dilated convolutions are products of a depthwise and a pointwise one, and its pooling gets the group norm."""
    torch.manual_seed(0)
    ours, theirs = settled(AtrousPyramid(6, 8, (2, 4))), settled(ASPP(6, [2, 4], 8))
    parts = dict(theirs.named_modules())
    with torch.no_grad():
        for index in (1, 2):
            depthwise, norm, _, pointwise, own_norm, _ = ours.branches[index]
            norm.running_mean.zero_(), norm.running_var.fill_(1 - norm.eps)  # what there is nothing of in theirs
            depthwise.weight.abs_()  # and so its activation changes nothing of positive maps
            parts[f"convs.{index}.0"].weight.copy_(depthwise.weight[:, 0] * pointwise.weight)
            parts[f"convs.{index}.1"].load_state_dict(own_norm.state_dict())
        parts["convs.0.0"].load_state_dict(ours.branches[0][0].state_dict())
        parts["convs.0.1"].load_state_dict(ours.branches[0][1].state_dict())
        parts["convs.3.1"].load_state_dict(ours.pooling[0].state_dict())
        theirs.convs[3][2] = ours.pooling[1]
        parts["project.0"].load_state_dict(ours.projection[0].state_dict())
        parts["project.1"].load_state_dict(ours.projection[1].state_dict())
        pixels = torch.rand(2, 6, 9, 7)
        torch.testing.assert_close(ours(pixels), theirs(pixels))


@pytest.mark.parametrize(("stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_the_rates_follow_the_stride(stride: int, rates: list[int]) -> None:
    head = DeepLabHead(8, 16, 12, 3, stride)
    dilations = [module.dilation[0] for module in head.aspp.modules() if isinstance(module, nn.Conv2d)]
    assert [rate for rate in dilations if rate > 1] == rates
    maps = [torch.randn(2, 8, 16, 24), torch.zeros(1), torch.randn(2, 16, 64 // stride, 96 // stride)]
    assert head(maps).shape == (2, 3, 16, 24)
    head(maps)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_one_image_can_be_trained_on() -> None:
    """Where batch norm would have one value a channel."""
    DeepLabHead(8, 16, 12, 3, 16).train()([torch.randn(1, 8, 8, 8), torch.zeros(1), torch.randn(1, 16, 2, 2)])
