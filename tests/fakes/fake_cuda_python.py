"""cuda-python on a :class:`fake_cuda.FakeCuda`."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from fake_cuda import FakeCuda

CUDA_ERROR = enum.IntEnum(
    "cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorInsufficientDriver": 35}
)
MEMCPY_KIND = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})


def cuda_python_of(cuda: FakeCuda) -> dict[str, ModuleType]:
    """``cuda.bindings.runtime`` and what it lies in, as :data:`sys.modules` would hold them."""
    runtime = ModuleType("cuda.bindings.runtime")
    chosen = threading.local()

    def call(function: Callable[..., tuple[Any, ...]]) -> None:
        name = function.__name__

        def answer(*arguments: Any) -> tuple[Any, ...]:
            try:
                cuda.enter(name)
            except MemoryError:
                return (CUDA_ERROR.cudaErrorMemoryAllocation, None)
            return (CUDA_ERROR.cudaSuccess, *function(*arguments))

        setattr(runtime, name, answer)

    def choice(function: Callable[..., tuple[Any, ...]]) -> None:
        setattr(runtime, function.__name__, function)

    @choice
    def cudaGetDeviceProperties(index: int) -> tuple[Any, ...]:  # noqa: N802
        if cuda.fails_at == "init":
            return (CUDA_ERROR.cudaErrorInsufficientDriver, None)
        major, minor = cuda.compute_capability
        name = b"Orin\0\0\0"
        return CUDA_ERROR.cudaSuccess, SimpleNamespace(
            name=name, major=major, minor=minor, integrated=int(cuda.integrated)
        )

    @choice
    def cudaRuntimeGetVersion() -> tuple[Any, ...]:  # noqa: N802
        return CUDA_ERROR.cudaSuccess, 12060

    @choice
    def cudaGetErrorString(code: int) -> tuple[Any, ...]:  # noqa: N802
        return CUDA_ERROR.cudaSuccess, b"CUDA driver version is insufficient for CUDA runtime version"

    @choice
    def cudaGetDevice() -> tuple[Any, ...]:  # noqa: N802
        return CUDA_ERROR.cudaSuccess, getattr(chosen, "device", 3)

    @choice
    def cudaSetDevice(index: int) -> tuple[Any, ...]:  # noqa: N802
        chosen.device = index
        cuda.stack[:] = ["primary"] if index == 0 else []
        return (CUDA_ERROR.cudaSuccess,)

    @call
    def cudaMalloc(size: int) -> tuple[Any, ...]:  # noqa: N802
        return (cuda.allocate("device", size),)

    @call
    def cudaFree(address: int) -> tuple[Any, ...]:  # noqa: N802
        cuda.free(address)
        return ()

    @call
    def cudaHostAlloc(size: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return (cuda.allocate("pinned", size),)

    @call
    def cudaFreeHost(address: int) -> tuple[Any, ...]:  # noqa: N802
        cuda.free(address)
        return ()

    @call
    def cudaHostGetDevicePointer(address: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return (address,)

    @call
    def cudaMemGetInfo() -> tuple[Any, ...]:  # noqa: N802
        return (1 << 20, 1 << 30)

    @call
    def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 1
        return (cuda.create_stream(),)

    @call
    def cudaStreamSynchronize(stream: int) -> tuple[Any, ...]:  # noqa: N802
        cuda.synchronize(stream)
        return ()

    @call
    def cudaStreamDestroy(stream: int) -> tuple[Any, ...]:  # noqa: N802
        cuda.destroy_stream(stream)
        return ()

    @call
    def cudaMemcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        cuda.check(source if kind == MEMCPY_KIND.cudaMemcpyHostToDevice else to, size, "pinned")
        cuda.copy(stream, to, source, size)
        return ()

    constants = {"cudaHostAllocDefault": 0, "cudaHostAllocMapped": 2, "cudaStreamNonBlocking": 1}
    for name, value in {**constants, "cudaError_t": CUDA_ERROR, "cudaMemcpyKind": MEMCPY_KIND}.items():
        setattr(runtime, name, value)
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, runtime  # type: ignore[attr-defined]
    return {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime}
