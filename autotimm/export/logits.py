"""Comparing what the best class of each pixel is chosen by: the logits inside a segmentation artifact.

A mask of one class all over agrees with any other such mask; the logits behind it show whether both say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.export.comparison import Differences
from autotimm.export.graph.semantic import SemanticGraph
from autotimm.export.internals import internal_values
from autotimm.models.semantic.segmentor import SemanticSegmentor

Logits = NDArray[np.float32]
"""``[C, h, w]`` of one image."""
LogitsComparison = Callable[[Differences, NDArray[np.uint8], Logits], None]
"""Takes the differences to note, the network input ``[H, W, 3]``, and the artifact's logits on it."""


def logits_of(artifact: Path) -> Callable[[NDArray[np.uint8]], Logits]:
    """A function from prepared pixels ``[H, W, 3]``, or an image, to the logits inside a segmentation artifact."""
    values = internal_values(artifact, SemanticGraph.internal_names)
    return lambda pixels: cast(Logits, values(pixels)["logits"])


def logits_against_model(model: SemanticSegmentor) -> LogitsComparison:
    """Compare with a PyTorch model's own."""

    def compare(differences: Differences, pixels: NDArray[np.uint8], found: Logits) -> None:
        with torch.inference_mode():
            logits = model.network(model.normalize(torch.from_numpy(pixels[None]).to(model.device))).logits
        _note(differences, logits[0].float().cpu().numpy(), found)

    return compare


def logits_against_artifact(path: Path) -> LogitsComparison:
    """Compare with those of another artifact of the same model."""
    run = logits_of(path)

    def compare(differences: Differences, pixels: NDArray[np.uint8], found: Logits) -> None:
        _note(differences, run(pixels), found)

    return compare


def _note(differences: Differences, expected: Logits, found: Logits) -> None:
    """The largest difference of a logit, over the range of all in the image: what a class can win by."""
    differences.compared["logits"] += found.size
    spread = float(expected.max() - expected.min())
    differences.note("relative_logit", np.abs(expected - found) / max(spread, 1e-6))
