"""TensorRT's runtime on a :class:`fake_cuda.FakeCuda`: plans are JSON, and a network is one of two small functions."""

from __future__ import annotations

import enum
import json
import math
from types import ModuleType
from typing import Any

import numpy as np
from fake_cuda import FakeCuda
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def colors(pixels: NDArray[np.uint8]) -> Arrays:
    """A classifier of ``[N, H, W, 3]``: the share of each of the three colours."""
    means = pixels.reshape(len(pixels), -1, 3).mean(1) + 1
    shares = (means / means.sum(1, keepdims=True)).astype(np.float32)
    order = np.argsort(-shares, axis=1)[:, :2]
    return {
        "probabilities": shares,
        "scores": np.take_along_axis(shares, order, 1),
        "labels": order.astype(np.int32),
    }


def bright(pixels: NDArray[np.uint8]) -> Arrays:
    """A mask of one image ``[H, W, 3]`` of any size: 1 where red is bright."""
    return {"mask": (pixels[None, ..., 0] > 127).astype(np.uint8)}


NETWORKS = {"colors": colors, "bright": bright}
COLORS = {
    "network": "colors",
    "inputs": {"images": ["uint8", [-1, 4, 6, 3]]},
    "outputs": {"probabilities": ["float32", [-1, 3]], "scores": ["float32", [-1, 2]], "labels": ["int32", [-1, 2]]},
    "profile": [[1, 4, 6, 3], [2, 4, 6, 3], [8, 4, 6, 3]],
}
BRIGHT = {
    "network": "bright",
    "inputs": {"image": ["uint8", [-1, -1, 3]]},
    "outputs": {"mask": ["uint8", [1, -1, -1]]},
    "profile": [[2, 2, 3], [8, 10, 3], [64, 64, 3]],
}
_TYPES = {"uint8": "UINT8", "float32": "FLOAT", "int32": "INT32"}


def tensorrt_of(cuda: FakeCuda, version: str = "10.3.0", name: str = "tensorrt") -> ModuleType:
    """A module of this name."""
    trt = ModuleType(name)
    trt.__version__ = version  # type: ignore[attr-defined]
    trt.contexts = 0  # type: ignore[attr-defined]  # how many were made, for tests

    class TensorIOMode(enum.Enum):
        NONE = 0
        INPUT = 1
        OUTPUT = 2

    DataType = enum.Enum("DataType", ["FLOAT", "INT32", "UINT8", "BF16"])  # noqa: N806

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert isinstance(logger, ILogger)
            self._logger = logger
            self.engine_host_code_allowed = False
            self.DLA_core = -1

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            cuda.enter("deserialize_cuda_engine")
            try:
                plan = json.loads(serialized_engine)
            except ValueError:
                self._logger.log(ILogger.WARNING, "this is only a warning")
                self._logger.log(ILogger.ERROR, "Version tag does not match.\nCurrent Version: 237, Serialized 239")
                return None
            assert self.engine_host_code_allowed == plan.get("version_compatible", False)
            assert self.DLA_core == plan.get("dla_core", -1)
            return ICudaEngine(plan, self._logger)

        def __del__(self) -> None:
            cuda.log.append("runtime")

    class ICudaEngine:
        def __init__(self, plan: dict[str, Any], logger: Any) -> None:
            self._plan, self._logger = plan, logger
            self._tensors = {**plan["inputs"], **plan["outputs"]}

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name in self._plan["inputs"] else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return DataType[_TYPES.get(self._tensors[name][0], "BF16")]

        def get_tensor_shape(self, name: str) -> list[int]:
            return self._tensors[name][1]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
            assert name in self._plan["inputs"]
            assert profile_index == 0
            return self._plan["profile"]

        def create_execution_context(self) -> IExecutionContext | None:
            cuda.enter("create_execution_context")
            if self._plan.get("too_large"):
                self._logger.log(ILogger.ERROR, "out of memory")
                return None
            trt.contexts += 1  # type: ignore[attr-defined]
            return IExecutionContext(self._plan, self._logger)

        def __del__(self) -> None:
            cuda.log.append("engine")

    class IExecutionContext:
        def __init__(self, plan: dict[str, Any], logger: Any) -> None:
            self._plan, self._logger = plan, logger
            self._addresses: dict[str, int] = {}
            self._shape: tuple[int, ...] = ()

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name in self._plan["inputs"]
            if "profile" in self._plan:
                least, _, most = self._plan["profile"]
                assert all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))
            self._shape = shape
            return not self._plan.get("refuses")

        def infer_shapes(self) -> list[str]:
            return []

        def get_tensor_shape(self, name: str) -> list[int]:
            if name in self._plan.get("actual", {}):
                return self._plan["actual"][name]
            ((_, declared),) = self._plan["inputs"].values()
            free = [side for side, told in zip(self._shape, declared, strict=True) if told < 0]
            return [side if side >= 0 else free.pop(0) for side in self._plan["outputs"][name][1]]

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            cuda.enter("execute_async_v3")
            if self._plan.get("fails"):
                self._logger.log(ILogger.ERROR, "an illegal instruction")
                return False
            shape, addresses = self._shape, dict(self._addresses)

            def work() -> None:
                (given,) = self._plan["inputs"]
                outputs = NETWORKS[self._plan["network"]](_array(cuda, addresses[given], shape, np.uint8))
                for output, value in outputs.items():
                    _array(cuda, addresses[output], value.shape, value.dtype)[...] = value

            cuda.streams[stream_handle].append(work)
            return True

        def __del__(self) -> None:
            cuda.log.append("context")

    def nptype(trt_type: Any) -> type:
        numpy_types = {"FLOAT": np.float32, "INT32": np.int32, "UINT8": np.uint8}
        if trt_type.name not in numpy_types:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return numpy_types[trt_type.name]

    for value in (TensorIOMode, DataType, ILogger, Runtime, ICudaEngine, IExecutionContext, nptype):
        setattr(trt, value.__name__, value)
    return trt


def _array(cuda: FakeCuda, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    cuda.check(address, size, "device", *(["pinned"] if cuda.integrated else []))
    start = max(start for start in cuda.memory if start <= address)
    block = np.frombuffer(cuda.memory[start], np.uint8)[address - start :][:size]
    return block.view(dtype).reshape(shape)
