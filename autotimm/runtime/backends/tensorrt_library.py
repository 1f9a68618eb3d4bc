"""TensorRT and TensorRT-RTX as Python packages: imported, their versions, and what they log."""

from __future__ import annotations

import functools
import importlib
import platform
import re
from collections import deque
from pathlib import Path
from typing import Any

from autotimm.runtime.errors import BackendUnavailableError, one_line

EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
"""The package of each flavour, and the extra of this distribution that installs it."""
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}

ON_JETSON = (
    "it comes with JetPack (sudo apt install nvidia-jetpack, or python3-libnvinfer alone); a virtual environment sees "
    "it when made with: python3 -m venv --system-site-packages"
)
"""How to get TensorRT on a Jetson, after "On this Jetson". The packages of an index are for servers."""


def on_jetson() -> bool:
    """Whether this machine is a Jetson; its Linux names its release in a file."""
    return platform.machine() == "aarch64" and Path("/etc/nv_tegra_release").is_file()


def import_tensorrt(flavour: str, purpose: str) -> Any:
    """The package of a flavour.

    Args:
        flavour: a key of :data:`EXTRAS`.
        purpose: what needs it, for the message: ``running model.engine``.

    Raises:
        BackendUnavailableError: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(flavour)
    except ModuleNotFoundError as error:
        if flavour == "tensorrt" and on_jetson():
            raise BackendUnavailableError(f"{purpose} needs TensorRT. On this Jetson {ON_JETSON}") from error
        raise BackendUnavailableError.missing_package(flavour, EXTRAS[flavour], purpose) from error
    except (ImportError, OSError) as error:
        raise BackendUnavailableError(
            f"{purpose} needs {TITLES[flavour]}, which is installed, but does not import ({one_line(error)}): check "
            "that its libraries and those of CUDA are installed and of the same version"
        ) from error


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what was posted after it: ``10.13.3.9.post1`` is ``(10, 13, 3, 9)``."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


@functools.cache
def logger_of(trt: Any) -> Any:
    """The logger of a package: ``logger.problems`` are the last errors that it wrote, ``logger.warnings`` the last
    warnings, oldest first.

    One for the whole process: TensorRT keeps the first that it is given for everything that comes later, and calls it
    even when nobody else refers to it any more.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: deque[str] = deque(maxlen=20)
            self.warnings: deque[str] = deque(maxlen=200)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.problems.append(" ".join(msg.split()))
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(" ".join(msg.split()))

    return Logger()


def said(logger: Any) -> str:
    """The errors logged since the last call, on one line."""
    problems = list(logger.problems)
    logger.problems.clear()
    text = "; ".join(dict.fromkeys(problems)) or "it did not say why"
    return text if len(text) <= 400 else text[:397] + "..."
