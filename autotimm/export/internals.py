"""Values inside an artifact that verification looks at: candidates before NMS, logits behind a mask, resized pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.artifact import read_manifest

InternalValues = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.generic]]]
"""From what :meth:`Predictor.prepare` gives, ``[H, W, 3]``, to the values of one image, by name."""
_Run = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.generic]]]
"""From the input of a run to the values of it."""


def is_inspectable(artifact: Path) -> bool:
    """Whether the inner values of an artifact can be had: of an engine they cannot."""
    return artifact.suffix.lower() in (".onnx", ".pt")


def internal_values(artifact: Path, names: Sequence[str]) -> InternalValues:
    """A function to the values of these names, which are no outputs of the artifact.

    Args:
        artifact: the file; its suffix says how the values are got at.
        names: from :attr:`ExportGraph.internal_names`.
    """
    run = _of_torchscript(artifact, names) if artifact.suffix.lower() == ".pt" else _of_onnx(artifact, names)
    shape = read_manifest(artifact).inputs[0].shape
    takes_image = len(shape) == 3
    copies = shape[0] if isinstance(shape[0], int) else 1

    def of_one(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        values = run(pixels if takes_image else np.repeat(pixels[None], copies, axis=0))
        return {name: value[0] for name, value in zip(names, values, strict=True)}

    return of_one


def _of_onnx(artifact: Path, names: Sequence[str]) -> _Run:
    """The values are named inside the graph, and here they are made outputs."""
    import onnx

    from autotimm.export.inner_sessions import open_session, with_outputs

    session = open_session(with_outputs(onnx.load(artifact), names))
    return lambda given: session.run(list(names), {session.get_inputs()[0].name: given})


def _of_torchscript(artifact: Path, names: Sequence[str]) -> _Run:
    """The module has a method that gives them after the outputs; it is run as it stands in the file."""
    import torch

    from autotimm.runtime.backends.torchscript import load_module

    module = load_module(artifact)
    places = {name: place for place, name in enumerate(module.value_names())}

    def run(given: NDArray[np.uint8]) -> list[NDArray[np.generic]]:
        with torch.inference_mode():
            values = module.values(torch.from_numpy(given))
        return [values[places[name]].numpy() for name in names]

    return run
