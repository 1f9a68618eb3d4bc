"""A CUDA device through pycuda.

pycuda keeps a stack of contexts for each thread. What is freed must be freed with its context on top: from another
thread pycuda otherwise only warns and leaks it, and a thread that ends with a stack that is not empty aborts the whole
process (pycuda 2026.1, ``src/cpp/cuda.hpp``: ``scoped_context_activation``, ``~context_stack``). So nothing here
happens outside :meth:`PycudaDevice.current`, which pops whatever comes.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime.backends.cuda_buffers import never_destroy, no_driver
from autotimm.runtime.errors import BackendUnavailableError

_NON_BLOCKING = 1
"""``CU_STREAM_NON_BLOCKING``, which pycuda has no name for."""

_primary_contexts: dict[int, Any] = {}
"""The retained context of each device. It is never released nor destroyed: pycuda's ``detach`` of a primary context
leaves it on the driver's stack of the thread, and its destructor detaches it as if it were an ordinary one."""
_retaining = threading.Lock()


class PycudaDevice:
    """See :class:`autotimm.runtime.backends.cuda_buffers.Device`.

    Raises:
        pycuda.driver.Error: CUDA does not start, or there is no device of this number.
    """

    def __init__(self, driver: Any, index: int) -> None:
        driver.init()
        device = driver.Device(index)
        self._driver = driver
        with _retaining:
            if index not in _primary_contexts:
                _primary_contexts[index] = device.retain_primary_context()
                never_destroy(_primary_contexts[index])
        self._context = _primary_contexts[index]
        major, minor = device.compute_capability()
        self.library = f"pycuda {importlib.import_module('pycuda').VERSION_TEXT}"
        self.name = str(device.name())
        self.compute_capability = f"{major}.{minor}"
        self.integrated = bool(device.get_attribute(driver.device_attribute.INTEGRATED))
        self.failures: tuple[type[Exception], ...] = (driver.Error,)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context, and pop it."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def allocate(self, size: int) -> PycudaMemory:
        """Bytes on the device."""
        return PycudaMemory(self._driver.mem_alloc(size))

    def allocate_pinned(self, size: int, *, mapped: bool) -> PycudaPinned:
        """Bytes of the host."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        return PycudaPinned(self._driver.pagelocked_empty(size, np.uint8, mem_flags=flags))

    def create_stream(self) -> PycudaStream:
        """A stream of its own."""
        return PycudaStream(self._driver)

    def free_memory(self) -> int:
        """Bytes."""
        free, _ = self._driver.mem_get_info()
        return int(free)


class PycudaMemory:
    """See :class:`autotimm.runtime.backends.cuda_buffers.DeviceMemory`."""

    def __init__(self, allocation: Any) -> None:
        self._allocation = allocation
        self.address = int(allocation)

    def free(self) -> None:
        """Give the bytes back."""
        self._allocation.free()


class PycudaPinned:
    """See :class:`autotimm.runtime.backends.cuda_buffers.PinnedMemory`."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array
        self._allocation: Any = array.base

    def device_address(self) -> int:
        """Where the device sees them."""
        return int(self._allocation.get_device_pointer())

    def free(self) -> None:
        """Give the bytes back."""
        self._allocation.free()


class PycudaStream:
    """See :class:`autotimm.runtime.backends.cuda_buffers.Stream`."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._stream = driver.Stream(_NON_BLOCKING)
        self.handle = int(self._stream.handle)

    def copy_in(self, address: int, host: NDArray[np.uint8]) -> None:
        """Begin a copy to the device."""
        self._driver.memcpy_htod_async(address, host, self._stream)

    def copy_out(self, host: NDArray[np.uint8], address: int) -> None:
        """Begin a copy to the host."""
        self._driver.memcpy_dtoh_async(host, address, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream's end."""
        self._stream.synchronize()

    def free(self) -> None:
        """Destroy it: pycuda does that when nothing refers to it."""
        self._stream = None


def load() -> Any:
    """``pycuda.driver``, whose import opens libcuda."""
    return importlib.import_module("pycuda.driver")


def open_device(driver: Any, index: int) -> PycudaDevice:
    """What :func:`autotimm.runtime.backends.cuda_buffers.open_device` calls."""
    try:
        return PycudaDevice(driver, index)
    except driver.Error as error:
        raise BackendUnavailableError(no_driver("pycuda", error)) from error
