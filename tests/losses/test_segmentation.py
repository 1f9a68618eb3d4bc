"""Against torch's cross-entropy, torchvision's and torchmetrics' functions, and figures worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.segmentation import dice_score
from torchvision.ops import sigmoid_focal_loss

from autotimm.losses.segmentation import SegmentationLoss
from autotimm.runtime.errors import ConfigError

C, IGNORED = 4, 255


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, C, 5, 7, generator=generator) * 2
    targets = torch.randint(0, C, (2, 5, 7), generator=generator)
    targets[0, :2] = IGNORED
    return logits, targets.to(torch.uint8)


def loss(kind: str, **options: object) -> SegmentationLoss:
    return SegmentationLoss(C, kind, **options)  # type: ignore[arg-type]


def test_cross_entropy_is_torchs_over_the_labelled_pixels() -> None:
    logits, targets = example()
    expected = F.cross_entropy(logits, targets.long(), ignore_index=IGNORED)
    torch.testing.assert_close(loss("ce")(logits, targets)["loss"], expected)
    weights = [1.0, 2.0, 0.5, 3.0]
    each = F.cross_entropy(logits, targets.long(), torch.tensor(weights), ignore_index=IGNORED, reduction="none")
    found = loss("ce", class_weights=weights)(logits, targets)["loss"]
    torch.testing.assert_close(found, each[targets != IGNORED].mean())


def test_dice_of_certain_answers_is_that_of_their_classes() -> None:
    logits, targets = example()
    labelled = targets != IGNORED
    found = logits.argmax(dim=1)
    certain = F.one_hot(found, C).movedim(-1, 1).float() * 200
    # torchmetrics knows no ignore index: the labelled pixels as one row of one image
    pixels = found[labelled][None], targets[labelled].long()[None]
    theirs = dice_score(*pixels, num_classes=C, include_background=True, average="macro", input_format="index")
    torch.testing.assert_close(loss("dice")(certain, targets)["loss"], 1 - theirs[0])


def test_dice_and_tversky_by_hand() -> None:
    """Two pixels of class 0 and one of class 1, found with probabilities .8, .4 and .3 of class 0; one ignored."""
    probability = torch.tensor([0.8, 0.4, 0.3, 0.9])
    logits = torch.stack([probability, 1 - probability]).log()[None, :, None]
    targets = torch.tensor([[[0, 0, 1, 9]]])
    two = SegmentationLoss(2, "dice", ignore_index=9)(logits, targets)["loss"]
    assert two.item() == pytest.approx(1 - (2 * 1.2 / (1.5 + 2) + 2 * 0.7 / (1.5 + 1)) / 2)
    tversky = SegmentationLoss(2, "tversky", ignore_index=9, tversky_alpha=0.2, tversky_beta=0.8)
    of_classes = (1.2 / (1.2 + 0.2 * 0.3 + 0.8 * 0.8), 0.7 / (0.7 + 0.2 * 0.8 + 0.8 * 0.3))
    assert tversky(logits, targets)["loss"].item() == pytest.approx(1 - sum(of_classes) / 2)
    weighted = SegmentationLoss(2, "dice", ignore_index=9, class_weights=[3.0, 1.0])(logits, targets)["loss"]
    assert weighted.item() == pytest.approx((3 * (1 - 2.4 / 3.5) + (1 - 1.4 / 2.5)) / 4)


def test_a_class_that_is_not_there_takes_no_part() -> None:
    logits, targets = example()
    without = targets.clone()
    without[without == 3] = IGNORED
    three = SegmentationLoss(C, "dice")(logits, without)["loss"]
    assert 0 < three < 1
    weighted = SegmentationLoss(C, "dice", class_weights=[1.0, 1.0, 1.0, 100.0])(logits, without)["loss"]
    torch.testing.assert_close(three, weighted)


def test_focal_is_torchvisions_for_two_classes() -> None:
    """The softmax of two logits is the sigmoid of their difference."""
    logits, targets = example()
    two, labels = logits[:, :2], targets.clone().clamp(max=IGNORED)
    labels[(labels != IGNORED) & (labels > 1)] = 1
    labelled = labels != IGNORED
    difference = (two[:, 1] - two[:, 0])[labelled]
    expected = sigmoid_focal_loss(difference, labels[labelled].float(), alpha=-1, gamma=1.5, reduction="mean")
    found = SegmentationLoss(2, "focal", focal_gamma=1.5)(two, labels)["loss"]
    torch.testing.assert_close(found, expected)
    flat = SegmentationLoss(2, "focal", focal_gamma=0.0, class_weights=[1.0, 2.0])(two, labels)["loss"]
    torch.testing.assert_close(flat, SegmentationLoss(2, "ce", class_weights=[1.0, 2.0])(two, labels)["loss"])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_certain_pixels_has_a_gradient(gamma: float) -> None:
    logits = torch.tensor([40.0, 0.0, 0.0, 0.0]).reshape(1, C, 1, 1).repeat(1, 1, 1, 3).requires_grad_()
    found = loss("focal", focal_gamma=gamma)(logits, torch.tensor([[[0, 1, IGNORED]]]))["loss"]
    found.backward()
    assert found.item() == pytest.approx(40 / 2)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, :2, 0], torch.tensor([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0]]))


def test_combined_is_the_sum_of_its_terms() -> None:
    logits, targets = example()
    terms = loss("combined", ce_weight=0.5, dice_weight=2.0)(logits, targets)
    torch.testing.assert_close(terms["ce_loss"], 0.5 * loss("ce")(logits, targets)["loss"])
    torch.testing.assert_close(terms["dice_loss"], 2.0 * loss("dice")(logits, targets)["loss"])
    torch.testing.assert_close(terms["loss"], terms["ce_loss"] + terms["dice_loss"])


@pytest.mark.parametrize("kind", ["combined", "ce", "dice", "focal", "tversky"])
def test_ignored_pixels_change_nothing_and_get_no_gradient(kind: str) -> None:
    logits, targets = example()
    other = logits.clone()
    other[0, :, :2] = 50 * torch.randn(C, 2, 7)
    other.requires_grad_()
    found = loss(kind)(other, targets)["loss"]
    torch.testing.assert_close(found, loss(kind)(logits, targets)["loss"])
    found.backward()
    assert other.grad is not None
    assert other.grad[0, :, :2].abs().max() == 0
    assert other.grad[1].abs().max() > 0


@pytest.mark.parametrize("kind", ["combined", "ce", "dice", "focal", "tversky"])
def test_a_batch_without_labels_is_no_loss(kind: str) -> None:
    logits, targets = example()
    logits.requires_grad_()
    found = loss(kind)(logits, torch.full_like(targets, IGNORED))["loss"]
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert math.isfinite(loss(kind)(logits.detach().half(), targets)["loss"].item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "dise"}, "there is no loss_type 'dise'; did you mean dice"),
        ({"ignore_index": 2}, "ignore_index is 2, which is one of the 4 classes"),
        ({"class_weights": [1.0, 2.0]}, "class_weights must be 4 numbers"),
        ({"class_weights": [0.0] * 4}, "not all 0"),
        ({"dice_weight": -1.0}, "dice_weight is -1.0, but must not be negative"),
    ],
)
def test_what_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationLoss(C, **options)  # type: ignore[arg-type]
