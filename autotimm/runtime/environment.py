"""What is installed and which engines and devices work here: for ``autotimm doctor`` and for benchmark reports."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from autotimm.runtime.backends.onnxruntime import offered_providers
from autotimm.runtime.backends.tensorrt_library import EXTRAS, TITLES, on_jetson
from autotimm.runtime.errors import one_line
from autotimm.version import __version__


@dataclass(frozen=True)
class Finding:
    """One thing that is there, or is not."""

    what: str
    works: bool
    found: str
    remedy: str
    """The command that brings it, where it is absent."""

    def to_dict(self) -> dict[str, str | bool]:
        """Plain JSON types."""
        return asdict(self)


PURPOSES = (
    ("predicting on ONNX artifacts", "cpu", ("onnxruntime",)),
    ("predicting on TorchScript artifacts", "torchscript", ("torch",)),
    (
        "training and reading checkpoints",
        "train",
        ("torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics"),
    ),
    ("exporting to ONNX", "export", ("onnx", "onnxscript")),
    ("serving over HTTP", "serve", ("starlette", "uvicorn", "httptools")),
)
"""What a user wants to do, the extra that brings it, and the distributions that it takes."""


def diagnose() -> list[Finding]:
    """Look at what is installed, and ask ONNX Runtime and torch which devices they offer."""
    findings = [
        Finding("autotimm", True, f"{__version__}, Python {platform.python_version()}, {platform.platform()}", ""),
        Finding("processor", True, f"{cpu_name()}, {usable_cpus()} CPUs for this process", ""),
    ]
    torch_works, torch_devices = _torch_devices() if installed_version("torch") else (True, "")
    for purpose, extra, names in PURPOSES:
        if extra == "cpu":
            findings.append(_onnxruntime(purpose))
            continue
        versions = {name: installed_version(name) for name in names}
        absent = [name for name, version in versions.items() if not version]
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        works, devices = (torch_works, torch_devices) if versions.get("torch") else (True, "")
        remedy = "" if works and not absent else f"pip install 'autotimm-deploy[{extra}]'"
        findings.append(Finding(purpose, works and not absent, (found or "nothing") + devices, remedy))
    return [*findings, *(_tensorrt(flavour) for flavour in TITLES), _cuda_device()]


def _onnxruntime(purpose: str) -> Finding:
    """Whether the engine imports, and which devices it offers."""
    try:
        import onnxruntime
    except ImportError as error:
        broken = "" if isinstance(error, ModuleNotFoundError) else f"installed, but does not import: {one_line(error)}"
        return Finding(purpose, False, broken or "nothing", "pip install 'autotimm-deploy[cpu]'")
    offered = ", ".join(offered_providers(onnxruntime))
    return Finding(purpose, True, f"onnxruntime {onnxruntime.__version__}, offered: {offered}", "")


def _tensorrt(flavour: str) -> Finding:
    """Whether a package of TensorRT imports; on a machine without a GPU it may well do that."""
    what = f"engines of {TITLES[flavour]}"
    remedy = f"pip install 'autotimm-deploy[{EXTRAS[flavour]}]'"
    if on_jetson():  # the packages of an index are for servers, and TensorRT-RTX is for desktops
        remedy = "sudo apt install nvidia-jetpack" if flavour == "tensorrt" else ""
    if importlib.util.find_spec(flavour) is None:
        return Finding(what, False, "nothing", remedy)
    works, answer = _ask(f"import {flavour}; print({flavour}.__version__)")
    return Finding(
        what, works, f"{flavour} {answer}" if works else f"{flavour} does not import: {answer}", remedy * (not works)
    )


def _cuda_device() -> Finding:
    """The device that engines run on, and what reaches it."""
    works, answer = _ask(
        "from autotimm.runtime.backends.cuda_buffers import open_device\n"
        "device = open_device()\n"
        "print(f'{device.name}, compute capability {device.compute_capability}, by {device.library}')"
    )
    found = answer if works else answer.partition("BackendUnavailableError: ")[2] or answer
    absent = installed_version("pycuda") == installed_version("cuda-bindings") == ""
    return Finding("CUDA device for engines", works, found, "pip install cuda-python" if absent else "")


def _torch_devices() -> tuple[bool, str]:
    """Whether torch imports, and what it can compute on, to be read on after its version."""
    works, answer = _ask("import torch; print('CUDA' if torch.cuda.is_available() else 'no CUDA')")
    return works, f"; torch has {answer}" if works else f"; torch does not import: {answer}"


def _ask(question: str) -> tuple[bool, str]:
    """Run Python code; whether it came to its end, and the last line that it wrote.

    In a process of its own: the runtime imports no torch, a device is taken by whoever looks at it, and a broken
    installation may end its interpreter.
    """
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    text = answer.stdout if answer.returncode == 0 else answer.stderr
    lines = text.strip().splitlines() or [f"exit status {answer.returncode}"]
    return answer.returncode == 0, lines[-1].strip()


def installed_version(distribution: str) -> str:
    """Version of an installed distribution; empty where it is absent."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def cpu_name() -> str:
    """The processor's own name for itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
