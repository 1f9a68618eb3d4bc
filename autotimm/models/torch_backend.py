"""A trained model behind the runtime's own interface: the same predictor serves checkpoints and artifacts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from autotimm.models.record import library_versions
from autotimm.models.task import TaskModel
from autotimm.runtime.manifest import InputMode, Manifest, TensorSpec
from autotimm.runtime.predictor import Predictor


class TorchBackend:
    """Runs :meth:`TaskModel.infer` as a :class:`autotimm.runtime.backends.Backend`."""

    def __init__(self, model: TaskModel) -> None:
        self.model = model.eval()
        self.name = f"torch {torch.__version__}, {model.device.type}, {torch.get_num_threads()} threads"
        self.inputs, self.outputs = input_specs(model, "batch"), output_specs(model, "batch")

    def run(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Uint8 RGB ``[N, H, W, 3]`` to the artifact's outputs."""
        return self.model.outputs_as_arrays(torch.from_numpy(images).to(self.model.device))

    def close(self) -> None:
        """Nothing to release: the model belongs to the caller."""


def predictor_of(model: TaskModel) -> Predictor:
    """The runtime's predictor on a PyTorch model."""
    return Predictor(TorchBackend(model), describe(model))


def describe(model: TaskModel, batch: int | str = "batch", input_mode: InputMode = "batch") -> Manifest:
    """The part of a manifest that the model itself knows.

    Args:
        model: the trained model.
        batch: the number of images the inputs and outputs hold, or the name of that dimension where it is free.
        input_mode: whether the input is a batch, or an image of any size.
    """
    return Manifest(
        task=model.task,
        architecture=model.architecture,
        class_names=model.class_names,
        preprocess=model.preprocess,
        inputs=input_specs(model, batch, input_mode),
        outputs=output_specs(model, batch, input_mode),
        input_mode=input_mode,
        format="checkpoint",
        target="torch",
        model_class=type(model).__name__,
        thresholds=model.thresholds,
        postprocessing=model.postprocessing,
        hashes={"checkpoint_sha256": model.checkpoint_sha256} if model.checkpoint_sha256 else {},
        versions=library_versions(),
        palette=getattr(model, "palette", None),
    )


_SOURCE_SIZE = ("height", "width")


def input_specs(model: TaskModel, batch: int | str, input_mode: InputMode = "batch") -> tuple[TensorSpec, ...]:
    """The one input."""
    if input_mode == "image":
        return (TensorSpec("image", "uint8", (*_SOURCE_SIZE, 3)),)
    return (TensorSpec("images", "uint8", (batch, *model.preprocess.size, 3)),)


def output_specs(model: TaskModel, batch: int | str, input_mode: InputMode = "batch") -> tuple[TensorSpec, ...]:
    """Every output with its shape; a ``mask`` of classes is as large as the input."""
    specs = []
    for name, dtype, shape in model.output_layout():
        sides = _SOURCE_SIZE if input_mode == "image" and name == "mask" else shape
        specs.append(TensorSpec(name, dtype, (batch, *sides)))
    return tuple(specs)
