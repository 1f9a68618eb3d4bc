import torch
from torch import nn
from torchvision.models.detection.fcos import FCOSHead as TheirHead

from autotimm.models.fcos import FCOSHead


def convolutions_and_norms(*modules: nn.Module) -> list[nn.Module]:
    return [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.GroupNorm)]


def test_it_is_torchvisions_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = FCOSHead(128, 3, num_convs=2, num_levels=2), TheirHead(128, 1, 3, num_convs=2)
    regression = theirs.regression_head
    layers = convolutions_and_norms(ours.cls_tower, ours.cls_pred, ours.reg_tower, ours.reg_pred, ours.centerness_pred)
    others = convolutions_and_norms(
        theirs.classification_head, regression.conv, regression.bbox_reg, regression.bbox_ctrness
    )
    for layer, other in zip(layers, others, strict=True):
        nn.init.normal_(other.weight, std=0.1)
        nn.init.normal_(other.bias, std=0.1)
        layer.load_state_dict(other.state_dict())
    features = [torch.randn(2, 128, 6, 8), torch.randn(2, 128, 3, 4)]
    outputs, expected = ours(features), theirs(features)
    torch.testing.assert_close(outputs.boxes.relu().transpose(1, 2), expected["bbox_regression"])
    torch.testing.assert_close(outputs.objectness.transpose(1, 2), expected["bbox_ctrness"])
    torch.testing.assert_close(outputs.classes.transpose(1, 2), expected["cls_logits"])
    assert expected["bbox_regression"].any()
    # which has no factor for each level
    with torch.no_grad():
        ours.scales.copy_(torch.tensor([1.0, 2.0]))
    scaled = ours(features)
    torch.testing.assert_close(scaled.boxes[..., :48], outputs.boxes[..., :48])
    torch.testing.assert_close(scaled.boxes[..., 48:], 2 * outputs.boxes[..., 48:])


def test_it_starts_at_its_prior() -> None:
    torch.manual_seed(0)
    outputs = FCOSHead(32, 5, num_convs=1, num_levels=1)([torch.randn(1, 32, 8, 8)])
    assert 0.008 < outputs.classes.sigmoid().mean() < 0.012
    assert 3.5 < outputs.boxes.mean() < 4.5
