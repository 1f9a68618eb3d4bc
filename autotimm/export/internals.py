"""Values inside an artifact that verification looks at: candidates before NMS, logits behind a mask, resized pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

InternalValues = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.generic]]]
"""From what :meth:`Predictor.prepare` gives, ``[H, W, 3]``, to the values of one image, by name."""


def is_inspectable(artifact: Path) -> bool:
    """Whether the inner values of an artifact can be had: of an engine they cannot."""
    return artifact.suffix.lower() == ".onnx"


def internal_values(artifact: Path, names: Sequence[str]) -> InternalValues:
    """A function to the values of these names, which are no outputs of the artifact.

    Args:
        artifact: an ``.onnx`` artifact; the values are named inside its graph, and here they are made outputs.
        names: from :attr:`ExportGraph.internal_names`.
    """
    proto = onnx.load(artifact)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the added outputs carry no type, which ONNX Runtime mentions and then infers
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    copies = node.shape[0] if isinstance(node.shape[0], int) else 1
    takes_image = len(node.shape) == 3

    def run(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        given = pixels if takes_image else np.repeat(pixels[None], copies, axis=0)
        values = session.run(list(names), {node.name: given})
        return {name: value[0] for name, value in zip(names, values, strict=True)}

    return run
