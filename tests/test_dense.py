import math

import torch
from torchvision.models.detection._utils import BoxLinearCoder

from autotimm.dense import anchor_points, decode_fcos, decode_yolox, joint_scores


def test_anchor_points_are_cell_centres_row_by_row() -> None:
    points, strides = anchor_points(64, 96, (16, 32))
    assert points.dtype == strides.dtype == torch.float32
    assert points.shape == (2, 4 * 6 + 2 * 3)
    assert points[:, 0].tolist() == [8, 8]
    assert points[:, 1].tolist() == [24, 8]
    assert points[:, 6].tolist() == [8, 24]
    assert points[:, 24:].tolist() == [[16, 48, 80, 16, 48, 80], [16, 16, 16, 48, 48, 48]]
    assert strides.tolist() == [16] * 24 + [32] * 6


def test_decode_by_hand() -> None:
    # Cell (2, 1) at stride 8 has its corner at (16, 8): centre (16 + .25 * 8, 8 + -.5 * 8) = (18, 4); size 3*8 by 5*8.
    raw = torch.tensor([[[0.25], [-0.5], [math.log(3)], [math.log(5)]]])
    boxes = decode_yolox(raw, torch.tensor([[20.0], [12.0]]), torch.tensor([8.0]))
    torch.testing.assert_close(boxes[0, :, 0], torch.tensor([6.0, -16.0, 30.0, 24.0]))


def test_decoding_candidates_equals_candidates_of_the_decoded() -> None:
    generator = torch.Generator().manual_seed(0)
    points, strides = anchor_points(64, 64, (8, 16, 32))
    raw = torch.randn(3, 4, len(strides), generator=generator)
    index = torch.stack([torch.randperm(len(strides), generator=generator)[:11] for _ in range(3)])
    candidates = raw.gather(2, index[:, None].expand(-1, 4, -1))
    decoded = decode_yolox(candidates, points[:, index].transpose(0, 1), strides[index][:, None])
    expected = decode_yolox(raw, points, strides).gather(2, index[:, None].expand(-1, 4, -1))
    torch.testing.assert_close(decoded, expected)


def test_joint_scores_are_products_of_probabilities() -> None:
    objectness, classes = torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[0.0, -1.0], [3.0, 1.0]]])
    expected = [[0.25, 1 / (1 + math.exp(-2)) / (1 + math.e)], [0.5 / (1 + math.exp(-3)), 0.880797 * 0.731059]]
    torch.testing.assert_close(joint_scores(objectness, classes)[0], torch.tensor(expected))


def test_cells_of_levels_that_do_not_divide_the_input() -> None:
    """As many as a padded convolution of stride 2 makes of the level before."""
    level = torch.zeros(1, 1, 20, 28)
    for stride in (16, 32, 64, 128):
        points, strides = anchor_points(160, 224, (stride // 2, stride))
        assert (strides == stride // 2).sum() == level.numel()
        level = torch.nn.functional.conv2d(level, torch.ones(1, 1, 3, 3), stride=2, padding=1)
        assert (strides == stride).sum() == level.numel()
        assert points[:, -1].tolist() == [(side - 0.5) * stride for side in (level.shape[3], level.shape[2])]


def test_decoding_fcos_is_torchvisions_coder() -> None:
    generator = torch.Generator().manual_seed(0)
    points, strides = anchor_points(64, 96, (8, 16, 32))
    raw = torch.randn(2, 4, len(strides), generator=generator) * 3
    anchors = torch.cat((points - strides / 2, points + strides / 2)).T
    coder = BoxLinearCoder(normalize_by_size=True)
    for image in range(2):
        expected = coder.decode(raw[image].relu().T, anchors)
        torch.testing.assert_close(decode_fcos(raw, points, strides)[image].T, expected)
    index = torch.stack([torch.randperm(len(strides), generator=generator)[:11] for _ in range(2)])
    candidates = raw.gather(2, index[:, None].expand(-1, 4, -1))
    decoded = decode_fcos(candidates, points[:, index].transpose(0, 1), strides[index][:, None])
    torch.testing.assert_close(decoded, decode_fcos(raw, points, strides).gather(2, index[:, None].expand(-1, 4, -1)))
