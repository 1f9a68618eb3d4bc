"""The loss of a classifier: cross-entropy over the classes, or binary cross-entropy of each label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from autotimm.runtime.errors import ConfigError


class ClassificationLoss(nn.Module):
    """Cross-entropy over the classes, or binary cross-entropy of each label, averaged over the batch.

    Args:
        num_classes: C.
        multi_label: binary cross-entropy, on 0/1 targets ``[N, C]``.
        label_smoothing: the share of the target that is spread evenly: over the classes, or over 0 and 1.
        weights: per class ``[C]``. Cross-entropy weighs the images of a class with it; binary cross-entropy the term of
            the images that have the label (``pos_weight``).
    """

    weights: Tensor | None

    def __init__(
        self, num_classes: int, *, multi_label: bool, label_smoothing: float, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing is {label_smoothing}, but must be at least 0 and below 1")
        if weights is not None and (len(weights) != num_classes or not all(weight >= 0 for weight in weights)):
            raise ConfigError(f"class_weights must be {num_classes} numbers, none of them negative, not {weights}")
        self.multi_label, self.label_smoothing = multi_label, label_smoothing
        # not persistent: a checkpoint holds what the network needs, and class_weights says the rest
        self.register_buffer("weights", None if weights is None else torch.tensor(weights).float(), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits: ``[N, C]``.
            targets: class indices int64 ``[N]``; or float32 ``[N, C]``, for several labels, and where mixup or cutmix
                has blended labels.
        """
        logits = logits.float()
        if not self.multi_label:
            # torch's own mean divides by the weights of the batch: the loss would depend on how images are batched, and
            # two processes would not be one with the summed batch
            smoothing = self.label_smoothing
            return F.cross_entropy(logits, targets, self.weights, reduction="none", label_smoothing=smoothing).mean()
        smooth = targets.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weights)


def balanced_weights(counts: NDArray[np.int64], images: int, multi_label: bool) -> list[float]:
    """Weights that give rare classes as much say as frequent ones.

    Args:
        counts: training images that hold each class ``[C]``.
        images: training images in all.
        multi_label: negatives over positives of each label (torch's ``pos_weight``); else images over C times the
            images of the class (scikit-learn's "balanced").

    Returns:
        One weight a class; 1 for a class that no training image holds.
    """
    held = np.maximum(counts, 1)
    weights = (images - counts) / held if multi_label else images / (len(counts) * held)
    return [float(weight) for weight in np.where(counts > 0, weights, 1.0)]
