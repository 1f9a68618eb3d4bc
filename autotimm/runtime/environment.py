"""What is installed and which engines and devices work here: for ``autotimm doctor`` and for benchmark reports."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

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
    (
        "training and reading checkpoints",
        "train",
        ("torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics"),
    ),
    ("exporting to ONNX", "export", ("onnx", "onnxscript")),
)
"""What a user wants to do, the extra that brings it, and the distributions that it takes."""


def diagnose() -> list[Finding]:
    """Look at what is installed, without importing anything heavy but the inference engine itself."""
    findings = [
        Finding("autotimm", True, f"{__version__}, Python {platform.python_version()}, {platform.platform()}", ""),
        Finding("processor", True, f"{cpu_name()}, {usable_cpus()} CPUs for this process", ""),
    ]
    for purpose, extra, names in PURPOSES:
        if extra == "cpu":
            findings.append(_onnxruntime(purpose))
            continue
        versions = {name: installed_version(name) for name in names}
        absent = [name for name, version in versions.items() if not version]
        found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        remedy = f"pip install 'autotimm-deploy[{extra}]'" if absent else ""
        findings.append(Finding(purpose, not absent, found or "nothing", remedy))
    return findings


def _onnxruntime(purpose: str) -> Finding:
    """Whether the engine imports, and which devices it offers."""
    try:
        import onnxruntime
    except ImportError as error:
        broken = "" if isinstance(error, ModuleNotFoundError) else f"installed, but does not import: {error}"
        return Finding(purpose, False, broken or "nothing", "pip install 'autotimm-deploy[cpu]'")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Finding(purpose, True, f"onnxruntime {onnxruntime.__version__}, providers: {providers}", "")


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
