"""pycuda on a :class:`fake_cuda.FakeCuda`."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda


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
