"""Values inside an artifact that verification looks at: candidates before NMS, logits behind a mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

InternalValues = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.generic]]]
"""From prepared pixels ``[H, W, 3]`` to the values of one image, by name."""


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
    batch = session.get_inputs()[0].shape[0]
    copies = batch if isinstance(batch, int) else 1

    def run(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        values = session.run(list(names), {"images": np.repeat(pixels[None], copies, axis=0)})
        return {name: value[0] for name, value in zip(names, values, strict=True)}

    return run
