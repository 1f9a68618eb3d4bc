"""Losses of semantic segmentation: cross-entropy, focal, Dice, Tversky, and cross-entropy with Dice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.runtime.errors import ConfigError

LossType = Literal["combined", "ce", "dice", "focal", "tversky"]


class SegmentationLoss(nn.Module):
    """The loss of class logits for every pixel; pixels of ``ignore_index`` take no part in it.

    Cross-entropy and focal loss (arXiv:1708.02002) are means over the labelled pixels of the batch. Dice
    (arXiv:1606.04797) and Tversky (arXiv:1706.05721) are one minus a soft overlap, computed for each class over the
    whole batch, and averaged over the classes that are there: a class that no pixel has would only be pushed down, by
    an overlap that is zero whatever the network says.

    Args:
        num_classes: C.
        loss_type: which; ``combined`` is ``ce_weight`` times cross-entropy plus ``dice_weight`` times Dice.
        ignore_index: label of pixels that nothing is known about.
        class_weights: per class ``[C]``: of its pixels, or of its overlap in the mean over the classes.
        ce_weight: of cross-entropy in ``combined``.
        dice_weight: of Dice in ``combined``.
        focal_gamma: how much less what is already certain counts in the focal loss.
        tversky_alpha: what a false positive costs in the Tversky loss.
        tversky_beta: what a false negative costs there; with .5 and .5 it is Dice.

    Raises:
        ConfigError: an argument out of its range.
    """

    weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        loss_type: LossType = "combined",
        *,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        focal_gamma: float = 2.0,
        tversky_alpha: float = 0.3,
        tversky_beta: float = 0.7,
    ) -> None:
        super().__init__()
        if loss_type not in get_args(LossType):
            raise ConfigError.unknown("loss_type", str(loss_type), get_args(LossType))
        numbers = {
            "ce_weight": ce_weight,
            "dice_weight": dice_weight,
            "focal_gamma": focal_gamma,
            "tversky_alpha": tversky_alpha,
            "tversky_beta": tversky_beta,
        }
        for name, value in numbers.items():
            if value < 0:
                raise ConfigError(f"{name} is {value}, but must not be negative")
        if 0 <= ignore_index < num_classes:
            raise ConfigError(f"ignore_index is {ignore_index}, which is one of the {num_classes} classes")
        if class_weights is not None and (
            len(class_weights) != num_classes or min(class_weights) < 0 or max(class_weights) == 0
        ):
            raise ConfigError(
                f"class_weights must be {num_classes} numbers, none of them negative and not all 0, not "
                f"{list(class_weights)}"
            )
        self.num_classes, self.loss_type, self.ignore_index = num_classes, loss_type, ignore_index
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.focal_gamma, self.tversky = focal_gamma, (tversky_alpha, tversky_beta)
        # not persistent: a checkpoint holds what the network needs, and class_weights says the rest
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss of a batch under ``loss``, and the terms of a combined one beside it.

        Args:
            logits: ``[N, C, H, W]``.
            targets: class indices of any integer type ``[N, H, W]``.
        """
        logits, targets = logits.float(), targets.long()
        if self.loss_type == "ce":
            return {"loss": self.cross_entropy(logits, targets)}
        if self.loss_type == "focal":
            return {"loss": self.focal(logits, targets)}
        if self.loss_type == "dice":
            return {"loss": self.overlap(logits, targets, 0.5, 0.5)}
        if self.loss_type == "tversky":
            return {"loss": self.overlap(logits, targets, *self.tversky)}
        cross_entropy = self.ce_weight * self.cross_entropy(logits, targets)
        dice = self.dice_weight * self.overlap(logits, targets, 0.5, 0.5)
        return {"loss": cross_entropy + dice, "ce_loss": cross_entropy, "dice_loss": dice}

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over labelled pixels. Weights are not divided out: how images are batched would matter otherwise."""
        total = F.cross_entropy(logits, targets, self.weights, ignore_index=self.ignore_index, reduction="sum")
        return total / self._labelled(targets).sum().clamp(min=1)

    def focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy times ``(1 - p) ** gamma``, p of the true class; the mean over labelled pixels."""
        labelled = self._labelled(targets)
        own = torch.where(labelled, targets, 0)
        log_probability = F.log_softmax(logits, dim=1).gather(1, own[:, None])[:, 0]
        # a gamma below 1 has an infinite slope at 0, where every pixel comes whose answer is certain and right
        missed = (1 - log_probability.exp()).clamp(min=1e-7)
        values = -(missed**self.focal_gamma) * log_probability
        if self.weights is not None:
            values = values * self.weights[own]
        return (values * labelled).sum() / labelled.sum().clamp(min=1)

    def overlap(self, logits: Tensor, targets: Tensor, alpha: float, beta: float) -> Tensor:
        """One minus ``TP / (TP + alpha FP + beta FN)`` of probabilities, averaged over the classes that are there."""
        labelled = self._labelled(targets)
        probabilities = logits.softmax(dim=1) * labelled[:, None]
        # bool, since a one-hot tensor of int64 takes eight times the memory: 2.5 GB for 150 classes, 8 images at 512
        classes = torch.arange(self.num_classes, device=targets.device)
        truths = (targets[:, None] == classes[:, None, None]) & labelled[:, None]
        of_class = (0, 2, 3)
        hits = (probabilities * truths).sum(of_class)
        found, there = probabilities.sum(of_class), truths.sum(of_class)
        scores = hits / (hits + alpha * (found - hits) + beta * (there - hits)).clamp(min=1e-6)
        counted = (there > 0).float() if self.weights is None else (there > 0) * self.weights
        return (counted * (1 - scores)).sum() / counted.sum().clamp(min=1e-6)

    def _labelled(self, targets: Tensor) -> Tensor:
        return targets != self.ignore_index
