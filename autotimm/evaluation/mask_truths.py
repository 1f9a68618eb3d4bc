"""Images with masks for evaluation, with the classes of the data mapped to those of the model by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autotimm.data.masked import MaskedSamples


class MaskTruths(Sequence[Any]):
    """The mask of each image at source size, read when it is looked at."""

    def __init__(self, samples: MaskedSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples.truth(index)
