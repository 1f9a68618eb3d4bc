"""A CUDA device through NVIDIA's cuda-python: ``cuda.bindings.runtime``, or ``cuda.cudart`` before version 12.8.

Its runtime interface works in the primary context of the device that the calling thread has chosen. Every call returns
its error code first.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.backends.cuda_buffers import no_driver
from autotimm.runtime.errors import BackendUnavailableError

_HOMES = ("cuda.bindings.runtime", "cuda.cudart")


class CudaRuntimeError(Exception):
    """A call that did not return success."""


class CudaPythonDevice:
    """See :class:`autotimm.runtime.backends.cuda_buffers.Device`.

    Raises:
        CudaRuntimeError: CUDA does not start, or there is no device of this number.
    """

    def __init__(self, runtime: Any, index: int) -> None:
        self._runtime = runtime
        self._index = index
        properties = call(runtime, runtime.cudaGetDeviceProperties(index))
        self.library = f"cuda-python, CUDA runtime {_version(call(runtime, runtime.cudaRuntimeGetVersion()))}"
        self.name = bytes(properties.name).split(b"\0")[0].decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.integrated = bool(properties.integrated)
        self.failures: tuple[type[Exception], ...] = (CudaRuntimeError,)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Choose the device, and afterwards the one that was chosen before."""
        before = call(self._runtime, self._runtime.cudaGetDevice())
        call(self._runtime, self._runtime.cudaSetDevice(self._index))
        try:
            yield
        finally:
            if before != self._index:
                call(self._runtime, self._runtime.cudaSetDevice(before))

    def allocate(self, size: int) -> CudaPythonMemory:
        """Bytes on the device."""
        return CudaPythonMemory(self._runtime, size)

    def allocate_pinned(self, size: int, *, mapped: bool) -> CudaPythonPinned:
        """Bytes of the host."""
        return CudaPythonPinned(self._runtime, size, mapped)

    def create_stream(self) -> CudaPythonStream:
        """A stream of its own."""
        return CudaPythonStream(self._runtime)

    def free_memory(self) -> int:
        """Bytes."""
        free, _ = call(self._runtime, self._runtime.cudaMemGetInfo())
        return int(free)


class CudaPythonMemory:
    """See :class:`autotimm.runtime.backends.cuda_buffers.DeviceMemory`."""

    def __init__(self, runtime: Any, size: int) -> None:
        self._runtime = runtime
        self.address = int(call(runtime, runtime.cudaMalloc(size)))

    def free(self) -> None:
        """Give the bytes back."""
        call(self._runtime, self._runtime.cudaFree(self.address))


class CudaPythonPinned:
    """See :class:`autotimm.runtime.backends.cuda_buffers.PinnedMemory`."""

    def __init__(self, runtime: Any, size: int, mapped: bool) -> None:
        self._runtime = runtime
        flags = runtime.cudaHostAllocMapped if mapped else runtime.cudaHostAllocDefault
        self._address = int(call(runtime, runtime.cudaHostAlloc(size, flags)))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._address))

    def device_address(self) -> int:
        """Where the device sees them."""
        return int(call(self._runtime, self._runtime.cudaHostGetDevicePointer(self._address, 0)))

    def free(self) -> None:
        """Give the bytes back."""
        call(self._runtime, self._runtime.cudaFreeHost(self._address))


class CudaPythonStream:
    """See :class:`autotimm.runtime.backends.cuda_buffers.Stream`."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._stream = call(runtime, runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking))
        self.handle = int(self._stream)

    def copy_in(self, address: int, host: NDArray[np.uint8]) -> None:
        """Begin a copy to the device."""
        self._copy(address, host.ctypes.data, host.nbytes, self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, host: NDArray[np.uint8], address: int) -> None:
        """Begin a copy to the host."""
        self._copy(host.ctypes.data, address, host.nbytes, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronize(self) -> None:
        """Wait for the stream's end."""
        call(self._runtime, self._runtime.cudaStreamSynchronize(self._stream))

    def free(self) -> None:
        """Destroy it."""
        call(self._runtime, self._runtime.cudaStreamDestroy(self._stream))

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        call(self._runtime, self._runtime.cudaMemcpyAsync(to, source, size, kind, self._stream))


def call(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """What a call returned beside its error code: nothing, one value, or several.

    Raises:
        CudaRuntimeError: the code is not success.
    """
    code, *values = answer
    if code != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(code)
        raise CudaRuntimeError(f"{code.name}: {text.decode()}")
    return values[0] if len(values) == 1 else tuple(values)


def load() -> Any:
    """The module of the runtime's functions; its import does not need libcuda."""
    for home in _HOMES:
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError:
            if home == _HOMES[-1]:
                raise
    raise AssertionError


def open_device(runtime: Any, index: int) -> CudaPythonDevice:
    """What :func:`autotimm.runtime.backends.cuda_buffers.open_device` calls."""
    try:
        return CudaPythonDevice(runtime, index)
    except (CudaRuntimeError, RuntimeError) as error:  # RuntimeError: versions before 12.9 cannot open libcuda
        raise BackendUnavailableError(no_driver("cuda-python", error)) from error


def _version(number: int) -> str:
    """``12040`` as ``12.4``."""
    return f"{number // 1000}.{number % 1000 // 10}"
