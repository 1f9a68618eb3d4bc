"""Memory of tensors on the host and on a CUDA device, whichever library reaches the device.

pycuda is taken where it is installed, else cuda-python; each is one module beside this one that gives a
:class:`Device`. Everything of a device is used within its :meth:`Device.current`, by any thread of the process that
opened it.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from autotimm.runtime.errors import BackendUnavailableError, one_line


class DeviceMemory(Protocol):
    """Bytes on the device."""

    address: int

    def free(self) -> None:
        """Give them back; called once."""


class PinnedMemory(Protocol):
    """Bytes on the host that the device copies from and to without the help of the processor."""

    array: NDArray[np.uint8]
    """One dimension; not to be used after :meth:`free`."""

    def device_address(self) -> int:
        """Where the device sees the same bytes; only of memory that was allocated as ``mapped``."""

    def free(self) -> None:
        """Give them back; called once."""


class Stream(Protocol):
    """Copies and computations in order, one after the other, beside what the host does.

    A CUDA event, to time what lies between two of them, would be recorded here.
    """

    handle: int
    """The ``cudaStream_t``, for ``execute_async_v3``."""

    def copy_in(self, address: int, host: NDArray[np.uint8]) -> None:
        """Begin to copy pinned bytes to the device."""

    def copy_out(self, host: NDArray[np.uint8], address: int) -> None:
        """Begin to copy bytes of the device to pinned ones."""

    def synchronize(self) -> None:
        """Wait for everything begun so far."""

    def free(self) -> None:
        """Destroy it; called once."""


class Device(Protocol):
    """A CUDA device through its primary context, which other libraries of the process share."""

    library: str
    """What reaches it: ``pycuda 2025.1``."""
    name: str
    """``NVIDIA GeForce RTX 4090``, ``Orin``."""
    compute_capability: str
    """``8.7``."""
    integrated: bool
    """Whether it has no memory of its own and works in the host's, as on a Jetson."""
    failures: tuple[type[Exception], ...]
    """What its calls raise where CUDA fails."""

    def current(self) -> AbstractContextManager[None]:
        """Make its context that of the calling thread, and afterwards again the one that was before."""

    def allocate(self, size: int) -> DeviceMemory:
        """Memory on the device, in bytes."""

    def allocate_pinned(self, size: int, *, mapped: bool) -> PinnedMemory:
        """Page-locked memory of the host, in bytes; ``mapped`` where the device is to see it as its own."""

    def create_stream(self) -> Stream:
        """A stream that does not wait for the default one."""

    def free_memory(self) -> int:
        """Bytes of the device that are not in use, by whatever process."""


class Buffer:
    """The place of one tensor: pinned bytes on the host, and their double on the device.

    An integrated device works in the pinned bytes themselves, so that nothing is copied.

    Args:
        device: where; it must be current whenever a method is called.
        size: bytes to start with.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.size = 0
        self.address = 0
        """Of the bytes on the device; another one after :meth:`reserve` had to grow."""
        self._device = device
        self._pinned: PinnedMemory | None = None
        self._memory: DeviceMemory | None = None
        self.reserve(size)

    def reserve(self, size: int) -> None:
        """Make room for a number of bytes; nothing is kept of the old ones. The stream must have come to its end."""
        if size <= self.size:
            return
        self.free()
        self._pinned = self._device.allocate_pinned(size, mapped=self._device.integrated)
        if self._device.integrated:
            self.address = self._pinned.device_address()
        else:
            self._memory = self._device.allocate(size)
            self.address = self._memory.address
        self.size = size

    def array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[np.generic]:
        """The pinned bytes as an array; a view that the next run writes over."""
        return self._host(shape, dtype).view(dtype).reshape(shape)

    def upload(self, stream: Stream, shape: Sequence[int], dtype: DTypeLike) -> None:
        """Begin to bring the tensor to the device."""
        if self._memory is not None:
            stream.copy_in(self.address, self._host(shape, dtype))

    def download(self, stream: Stream, shape: Sequence[int], dtype: DTypeLike) -> None:
        """Begin to bring the tensor to the host."""
        if self._memory is not None:
            stream.copy_out(self._host(shape, dtype), self.address)

    def free(self) -> None:
        """Give everything back; may be called twice."""
        self.size = self.address = 0
        memory, pinned, self._memory, self._pinned = self._memory, self._pinned, None, None
        for part in (memory, pinned):
            if part is not None:
                part.free()

    def _host(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[np.uint8]:
        assert self._pinned is not None
        return self._pinned.array[: byte_count(shape, dtype)]


def byte_count(shape: Sequence[int], dtype: DTypeLike) -> int:
    """Bytes of a dense array."""
    return math.prod(shape) * np.dtype(dtype).itemsize


LIBRARIES = {"pycuda": "pycuda_memory", "cuda-python": "cuda_python_memory"}
"""What can reach a device, the first that is installed; and the module here that does it. Each has ``load()``, which
raises :class:`ModuleNotFoundError` where the library is absent, and ``open_device(library, index)``."""

_opened_by: list[int] = []


def open_device(index: int = 0) -> Device:
    """The CUDA device of a number, counted among those of ``CUDA_VISIBLE_DEVICES``.

    Raises:
        BackendUnavailableError: no library that reaches it, no driver, or no device; or the process was forked from one
            that had started CUDA.
    """
    if _opened_by and _opened_by[0] != os.getpid():
        raise BackendUnavailableError(FORKED)
    module, library = _installed_library()
    device: Device = module.open_device(library, index)
    _opened_by[:] = [os.getpid()]
    return device


FORKED = (
    "CUDA was started before this process was forked and does not work in it: start processes by "
    "multiprocessing.get_context('spawn'), or load the engine only after the fork"
)


def _installed_library() -> tuple[ModuleType, ModuleType]:
    for name, home in LIBRARIES.items():
        module = importlib.import_module(f"autotimm.runtime.backends.{home}")
        try:
            return module, module.load()
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:  # libcuda.so.1 cannot be opened
            raise BackendUnavailableError(no_driver(name, error)) from error
    raise BackendUnavailableError(
        "running a TensorRT engine needs pycuda or cuda-python, neither of which is installed: "
        "pip install pycuda, or cuda-python where there is no CUDA toolkit to compile pycuda with"
    )


def no_driver(library: str, error: Exception) -> str:
    """The message of a library that is installed and cannot start."""
    reason = one_line(error)
    if "initialization error" in reason:  # CUDA_ERROR_NOT_INITIALIZED: what a forked process gets
        return f"{library} cannot start CUDA ({reason}); perhaps {FORKED}"
    return (
        f"{library} is installed, but CUDA does not start ({reason}): check that this machine has an NVIDIA GPU and a "
        f"driver as new as the CUDA of {library} (nvidia-smi shows it), and that a container was started with --gpus "
        "all or --runtime nvidia"
    )


def never_destroy(thing: object) -> None:
    """Keep an object, and what it refers to, until the process ends, and do not destroy it then either.

    For what belongs to a CUDA that is gone: in a forked process every destructor would call into it.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
