"""The first CUDA device, asked of the driver itself: no torch, no CUDA toolkit and no package is needed for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`` and ``_MINOR`` of ``cuda.h``."""
_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")


@dataclass(frozen=True)
class CudaDevice:
    """What an engine is bound to."""

    name: str
    compute_capability: str
    """``8.7``."""
    cuda: str
    """The newest CUDA that the driver supports: ``12.6``."""


def cuda_device() -> CudaDevice | None:
    """The first device, or ``None`` where there is no driver or no device."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return None
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(str(value.value))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return CudaDevice(name.value.decode(errors="replace"), ".".join(parts), cuda)


def _driver() -> ctypes.CDLL | None:
    for library in _LIBRARIES:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    return None
