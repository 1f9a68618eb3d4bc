"""A CUDA device in host memory, for the stand-ins of the packages that reach one.

Work on a stream waits until somebody synchronises it, so that what is read too early is not there yet. Every call needs
the primary context to be current in its thread, and every address must lie in memory that is allocated, as on a device.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any


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
