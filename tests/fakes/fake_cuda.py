"""A CUDA device in host memory, behind the names of pycuda and of cuda-python.

Work on a stream waits until somebody synchronises it, so that what is read too early is not there yet. Every call needs
the primary context to be current in its thread, and every address must lie in memory that is allocated, as on a device.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class FakeCuda:
    """One device: what is allocated, what waits on its streams, who has it current."""

    def __init__(self, compute_capability: tuple[int, int] = (8, 7), *, integrated: bool = False) -> None:
        self.compute_capability = compute_capability
        self.integrated = integrated
        self.memory: dict[int, ctypes.Array[Any]] = {}
        """By address."""
        self.kinds: dict[int, str] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.allocations = 0
        self.copies = 0
        self.log: list[str] = []
        """What was freed or destroyed, in order."""
        self.fails_at: str = ""
        """The call that fails from now on."""
        self._threads = threading.local()

    @property
    def stack(self) -> list[str]:
        """The contexts of the calling thread."""
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        return self._threads.stack

    def enter(self, name: str) -> None:
        """The beginning of every call."""
        if self.stack[-1:] != ["primary"]:
            raise RuntimeError(f"{name}: invalid device context")
        if name == self.fails_at:
            raise MemoryError(f"{name} failed: out of memory")

    def allocate(self, kind: str, size: int) -> int:
        """Bytes that hold no zeros."""
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xA5, size)
        address = ctypes.addressof(block)
        self.memory[address], self.kinds[address] = block, kind
        self.allocations += 1
        return address

    def free(self, address: int) -> None:
        """Give bytes back; their content is spoilt."""
        block = self.memory.pop(address)
        self.log.append(self.kinds.pop(address))
        ctypes.memset(block, 0x5A, len(block))

    def check(self, address: int, size: int, *kinds: str) -> None:
        """An address must lie in allocated memory of a kind."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                assert self.kinds[start] in kinds, f"{self.kinds[start]} memory, but {kinds} is needed"
                return
        raise RuntimeError(f"an illegal memory access was encountered: {size} bytes")

    def copy(self, stream: int, to: int, source: int, size: int) -> None:
        """Put a copy on a stream."""
        self.copies += 1

        def work() -> None:
            self.check(to, size, "device", "pinned")
            self.check(source, size, "device", "pinned")
            ctypes.memmove(to, source, size)

        self.streams[stream].append(work)

    def create_stream(self) -> int:
        """A handle."""
        handle = max(self.streams, default=1000) + 1
        self.streams[handle] = []
        return handle

    def synchronize(self, stream: int) -> None:
        """Do what waits."""
        waiting, self.streams[stream] = self.streams[stream], []
        for work in waiting:
            work()

    def destroy_stream(self, stream: int) -> None:
        """At its end it must have nothing to do."""
        assert not self.streams.pop(stream)
        self.log.append("stream")


def pycuda_of(cuda: FakeCuda) -> dict[str, ModuleType]:
    """``pycuda`` and ``pycuda.driver``, as :data:`sys.modules` would hold them."""
    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    package.VERSION_TEXT = "2026.1"  # type: ignore[attr-defined]

    class Error(Exception):
        pass

    def entering(name: str) -> None:
        try:
            cuda.enter(name)
        except (RuntimeError, MemoryError) as error:
            raise Error(str(error)) from error

    class Context:
        def push(self) -> None:
            cuda.stack.append("primary")

        @staticmethod
        def pop() -> None:
            cuda.stack.pop()

    class Device:
        def __init__(self, index: int) -> None:
            if index != 0:
                raise Error("cuDeviceGet failed: invalid device ordinal")

        def retain_primary_context(self) -> Context:
            return Context()

        def compute_capability(self) -> tuple[int, int]:
            return cuda.compute_capability

        def name(self) -> str:
            return "Orin"

        def get_attribute(self, attribute: str) -> int:
            return {"integrated": int(cuda.integrated)}[attribute]

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._address: int | None = cuda.allocate("device", size)

        def __int__(self) -> int:
            assert self._address is not None
            return self._address

        def free(self) -> None:
            entering("free")
            assert self._address is not None
            cuda.free(self._address)
            self._address = None

    class PagelockedHostAllocation:
        def __init__(self, size: int, mapped: bool) -> None:
            self._address: int | None = cuda.allocate("pinned", size)
            self._mapped = mapped
            self.__array_interface__ = {
                "data": (self._address, False), "shape": (size,), "typestr": "|u1", "version": 3
            }  # fmt: skip

        def get_device_pointer(self) -> int:
            assert self._mapped
            assert self._address is not None
            return self._address

        def free(self) -> None:
            entering("free")
            assert self._address is not None
            cuda.free(self._address)
            self._address = None

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            self._handle = 0
            entering("Stream")
            assert flags == 1
            self._handle = cuda.create_stream()

        @property
        def handle(self) -> int:
            return self._handle

        def synchronize(self) -> None:
            entering("synchronize")
            cuda.synchronize(self._handle)

        def __del__(self) -> None:
            if self._handle:
                assert cuda.stack, "destroyed where no context is current"
                cuda.destroy_stream(self._handle)

    def init(flags: int = 0) -> None:
        if cuda.fails_at == "init":
            raise Error("cuInit failed: no CUDA-capable device is detected")

    def mem_alloc(size: int) -> DeviceAllocation:
        entering("mem_alloc")
        return DeviceAllocation(size)

    def pagelocked_empty(shape: int, dtype: type, order: str = "C", mem_flags: int = 0) -> Any:
        entering("pagelocked_empty")
        assert dtype is np.uint8
        return np.asarray(PagelockedHostAllocation(shape, mem_flags == 2))

    def memcpy_htod_async(dest: int, src: Any, stream: Stream) -> None:
        entering("memcpy_htod_async")
        cuda.check(src.ctypes.data, src.nbytes, "pinned")
        cuda.copy(stream.handle, dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(dest: Any, src: int, stream: Stream) -> None:
        entering("memcpy_dtoh_async")
        cuda.check(dest.ctypes.data, dest.nbytes, "pinned")
        cuda.copy(stream.handle, dest.ctypes.data, src, dest.nbytes)

    def mem_get_info() -> tuple[int, int]:
        entering("mem_get_info")
        return (1 << 30) - sum(len(block) for block in cuda.memory.values()), 1 << 30

    for value in (Error, Context, Device, DeviceAllocation, PagelockedHostAllocation, Stream, init, mem_alloc):
        setattr(driver, value.__name__, value)
    for function in (pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, mem_get_info):
        setattr(driver, function.__name__, function)
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)  # type: ignore[attr-defined]
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated")  # type: ignore[attr-defined]
    package.driver = driver  # type: ignore[attr-defined]
    return {"pycuda": package, "pycuda.driver": driver}


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
