"""One engine per module, all behind the same small :class:`Backend`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.manifest import TensorSpec


class Backend(Protocol):
    """An engine with a model loaded: uint8 pixels in, the artifact's outputs out."""

    name: str
    """Engine, device and threads, as a person would name them: ``onnxruntime 1.27, cpu, 2 threads``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Run on RGB uint8 (C-contiguous) and return every output by name.

        Args:
            images: ``[N, H, W, 3]``, or ``[H, W, 3]`` of any size where the artifact takes one image.
        """

    def close(self) -> None:
        """Release the engine; the backend cannot be used afterwards."""
