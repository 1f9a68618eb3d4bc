"""From uint8 pixels to normalised network input: the arithmetic half of ``Preprocess``, in training and in graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autotimm.runtime.preprocess import Preprocess


class Normalize(nn.Module):
    """RGB uint8 ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]``: cast, layout, channel order, mean and standard deviation.

    Holds no persistent state: the checkpoint's ``Preprocess`` is the only record.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        std = torch.tensor(preprocess.std, dtype=torch.float64)
        mean = torch.tensor(preprocess.mean, dtype=torch.float64)
        self.is_identity = bool((mean == 0).all() and (std == 1).all())
        self.reverses_channels = preprocess.channel_order == "bgr"
        self.register_buffer("scale", (1 / std).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch of pixels."""
        pixels = images.float().permute(0, 3, 1, 2)  # cast first: TensorRT does not transpose uint8
        if self.reverses_channels:
            pixels = torch.cat((pixels[:, 2:3], pixels[:, 1:2], pixels[:, 0:1]), dim=1)
        return pixels if self.is_identity else pixels * self.scale + self.shift
