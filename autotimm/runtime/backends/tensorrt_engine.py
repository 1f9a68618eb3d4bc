"""A TensorRT engine and its one execution context: tensors, profile, shapes, runs.

Only the interface by names of tensors is used, which is the same in TensorRT 8.6 to 11 and TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autotimm.runtime.backends.tensorrt_checks import rebuild
from autotimm.runtime.backends.tensorrt_library import TITLES, logger_of, said
from autotimm.runtime.errors import ArtifactError, ConfigError, ImageError
from autotimm.runtime.manifest import TensorSpec
from autotimm.runtime.sidecar import EngineRecord

_PROFILE = 0
"""The optimization profile that a context starts with; AutoTimm builds engines of one."""

Shape = tuple[int, ...]


class TensorRTEngine:
    """A deserialised engine; the device that it is to run on must be current whenever a method is called.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        path: the plan.
        record: how it was built.
        described: what the manifest says of each tensor; it names the free dimensions, and fixes those that TensorRT
            could not work out by itself and are checked at every change of shape.

    Raises:
        ArtifactError: TensorRT cannot read the engine, or cannot prepare it to run.
    """

    def __init__(self, trt: Any, path: Path, record: EngineRecord, described: Mapping[str, TensorSpec]) -> None:
        self._path = path
        self._logger = logger_of(trt)
        self._title = f"{TITLES[record.flavour]} {trt.__version__}"
        said(self._logger)  # what was logged before is not about this engine
        runtime = trt.Runtime(self._logger)
        if record.version_compatible:
            runtime.engine_host_code_allowed = True  # such a plan brings the runtime of its version along
        dla_core = record.options.get("dla_core")
        if dla_core is not None:
            runtime.DLA_core = dla_core  # the plan says that it is for a DLA, not for which one
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ArtifactError(f"{path}: {self._title} cannot read it ({said(self._logger)}); {rebuild(path)}")
        context = engine.create_execution_context()
        if context is None:
            raise ArtifactError(
                f"{path}: {self._title} cannot prepare it to run ({said(self._logger)}); if memory is short, end other "
                "programs that use the GPU or build with a smaller profile"
            )
        self._runtime, self._engine, self._context = runtime, engine, context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        specs = {name: _spec(trt, engine, name, described.get(name), path) for name in names}
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(specs[name] for name in names if is_input[name])
        self.outputs = tuple(specs[name] for name in names if not is_input[name])
        if len(self.inputs) != 1:
            raise ArtifactError(f"{path}: has {len(self.inputs)} inputs, but an artifact of AutoTimm has one")
        self.profile = self._profile(self.inputs[0].name)
        """The smallest, the optimal and the largest shape of the input."""

    def set_shape(self, shape: Sequence[int]) -> dict[str, Shape]:
        """Tell the context the shape of its input.

        Returns:
            The shape of each output.

        Raises:
            ConfigError: a batch that the engine was not built for.
            ImageError: an image of any size that is outside the sizes that it was built for.
            ArtifactError: TensorRT refuses it, or an output gets a shape that it does not have in the manifest.
        """
        name = self.inputs[0].name
        self._check_shape(name, shape)
        if not self._context.set_input_shape(name, tuple(shape)) or self._context.infer_shapes():
            raise ArtifactError(
                f"{self._path}: {self._title} refused the input {list(shape)} ({said(self._logger)}); "
                f"{rebuild(self._path)}"
            )
        shapes = {spec.name: _numbers(self._context.get_tensor_shape(spec.name)) for spec in self.outputs}
        for spec in self.outputs:
            found = shapes[spec.name]
            if any(side < 0 for side in found) or not _fits(found, spec):
                raise ArtifactError(
                    f"{self._path}: its output {spec.name} is {list(found)} for the input {list(shape)}, but the "
                    f"manifest says {spec}; {rebuild(self._path)}"
                )
        return shapes

    def set_address(self, name: str, address: int) -> None:
        """Tell the context where a tensor lies on the device.

        Raises:
            ArtifactError: TensorRT refuses it.
        """
        if not self._context.set_tensor_address(name, address):
            raise ArtifactError(f"{self._path}: {self._title} refused memory for {name} ({said(self._logger)})")

    def enqueue(self, stream: int) -> None:
        """Begin to run, after everything that is on the stream already.

        Raises:
            ArtifactError: TensorRT could not begin.
        """
        if not self._context.execute_async_v3(stream):
            raise ArtifactError(f"{self._path}: {self._title} failed: {said(self._logger)}")

    def release(self) -> None:
        """Destroy the context, the engine and the runtime, in this order; may be called twice."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _profile(self, name: str) -> tuple[Shape, Shape, Shape]:
        fixed = _numbers(self._engine.get_tensor_shape(name))
        if all(side >= 0 for side in fixed):
            return fixed, fixed, fixed
        least, best, most = (_numbers(dims) for dims in self._engine.get_tensor_profile_shape(name, _PROFILE))
        return least, best, most

    def _check_shape(self, name: str, shape: Sequence[int]) -> None:
        least, _, most = self.profile
        if len(shape) == len(most) and all(
            low <= side <= high for low, side, high in zip(least, shape, most, strict=True)
        ):
            return
        taken = f"exactly {list(most)}" if least == most else f"{list(least)} to {list(most)}"
        kind = ImageError if len(shape) == len(most) == 3 else ConfigError  # the next image may well fit
        raise kind(
            f"{self._path}: {name} is {list(shape)}, but the engine was built for {taken}; {_mend(least, shape, most)}"
        )


def _mend(least: Shape, shape: Sequence[int], most: Shape) -> str:
    """What a user can do about a shape outside the profile."""
    if len(shape) == len(most) == 3:
        return "resize the image, or build the engine with a larger range of --profile-height and --profile-width"
    if len(shape) != len(most) or tuple(shape[1:]) != most[1:]:
        return "give it such input"
    if least == most:
        return f"give it {most[0]} images at a time, or export with --batch dynamic and build that"
    return (
        f"give it {least[0]} to {most[0]} images at a time, or build the engine with a larger range of --profile-batch"
    )


def _spec(trt: Any, engine: Any, name: str, described: TensorSpec | None, path: Path) -> TensorSpec:
    shape = _numbers(engine.get_tensor_shape(name))
    try:
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
    except TypeError as error:
        raise ArtifactError(
            f"{path}: its tensor {name} is {engine.get_tensor_dtype(name)}, which numpy does not have; {rebuild(path)}"
        ) from error
    told: Sequence[int | str] = ["?"] * len(shape)
    if described is not None and len(described.shape) == len(shape):
        told = described.shape
    return TensorSpec(name, dtype, tuple(side if side >= 0 else other for side, other in zip(shape, told, strict=True)))


def _fits(shape: Shape, spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        not isinstance(told, int) or told == side for side, told in zip(shape, spec.shape, strict=True)
    )


def _numbers(dims: Any) -> Shape:
    """TensorRT's ``Dims`` as a tuple."""
    return tuple(int(side) for side in dims)
