from types import SimpleNamespace
from typing import Any

import pytest

from autotimm.runtime import cuda_device as module
from autotimm.runtime.cuda_device import CudaDevice, cuda_device


def driver(devices: int = 1, initialises: bool = True) -> Any:
    """As in the documents of the driver: results through pointers, 0 where all is well."""
    attributes = {75: 8, 76: 7}

    def fill(pointer: Any, value: int) -> int:
        pointer._obj.value = value
        return 0

    def name(buffer: Any, length: int, device: Any) -> int:
        buffer.value = b"Orin (nvgpu)"[:length]
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: 0 if initialises else 100,
        cuDeviceGetCount=lambda pointer: fill(pointer, devices),
        cuDeviceGet=fill,
        cuDriverGetVersion=lambda pointer: fill(pointer, 12060),
        cuDeviceGetName=name,
        cuDeviceGetAttribute=lambda pointer, attribute, device: fill(pointer, attributes[attribute]),
    )


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_driver", driver)
    assert cuda_device() == CudaDevice("Orin (nvgpu)", "8.7", "12.6")


@pytest.mark.parametrize("found", [None, driver(devices=0), driver(initialises=False)])
def test_no_device(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(module, "_driver", lambda: found)
    assert cuda_device() is None
