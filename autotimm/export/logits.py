"""Comparing what the best class of each pixel is chosen by: the logits inside a segmentation artifact.

A mask of one class all over agrees with any other such mask; the logits behind it show whether both say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from autotimm.export.comparison import Differences
from autotimm.export.graph.semantic import SemanticGraph
from autotimm.models.semantic.segmentor import SemanticSegmentor

Logits = NDArray[np.float32]
"""``[C, h, w]`` of one image."""
LogitsComparison = Callable[[Differences, NDArray[np.uint8], Logits], None]
"""Takes the differences to note, the prepared pixels ``[H, W, 3]``, and the artifact's logits on them."""


def logits_of(artifact: Path) -> Callable[[NDArray[np.uint8]], Logits]:
    """A function from prepared pixels ``[H, W, 3]`` to the logits inside a segmentation artifact.

    They are named inside the graph; here they are made an output.
    """
    proto = onnx.load(artifact)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in SemanticGraph.internal_names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the added output carries no type, which ONNX Runtime mentions and then infers
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = session.get_inputs()[0].shape[0]
    copies = batch if isinstance(batch, int) else 1

    def run(pixels: NDArray[np.uint8]) -> Logits:
        (logits,) = session.run(list(SemanticGraph.internal_names), {"images": np.repeat(pixels[None], copies, axis=0)})
        found: Logits = logits[0]
        return found

    return run


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
