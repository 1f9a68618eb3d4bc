"""Every name that is asked of TensorRT, pycuda and cuda-python is one that the real packages have.

Their names were read from the packages themselves by ``collect_tensorrt_names.py``, since none of them runs without a
GPU.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_cuda_python import cuda_python_of
from fake_pycuda import pycuda_of
from fake_tensorrt import tensorrt_of

ROOT = Path(__file__).resolve().parents[3]
BACKENDS = ROOT / "autotimm" / "runtime" / "backends"

Names = dict[str, set[str]]
Use = tuple[str, str]
"""A class, the module itself being the empty one, and the name that is asked of it."""

CLASSES = {
    "trt": "",
    "module": "",  # library.module
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "layer": "ILayer",
    "tensor": "ITensor",
    "inspector": "EngineInspector",
    "cache": "ITimingCache",
    "flags": "NetworkDefinitionCreationFlag",
    "levels": "HardwareCompatibilityLevel",
    "get_timing_cache": "ITimingCache",
    "get_output": "ITensor",
    "get_input": "ITensor",
    "create_engine_inspector": "EngineInspector",
}
"""What the objects of TensorRT are called in the code: as variables, attributes, or by the method that gives them."""
SOMETHING_ELSE = {"tensorrt_inspection.py": {"layer", "tensor"}, "tensorrt.py": {"engine"}}
"""Names that mean other things in a module: pieces of JSON, a path."""
OF_PYCUDA = {
    "driver": "",
    "device": "Device",
    "context": "Context",
    "stream": "Stream",
    "allocation": "PagelockedHostAllocation",
}
OF_CUDA_PYTHON = {"runtime": "", "properties": "cudaDeviceProp"}

NOT_EVERYWHERE: dict[Use, str] = {
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): "from 10 on: asked for by hasattr",
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): "up to 10: asked for by hasattr",
    ("BuilderFlag", "FP16"): "up to 10: where a network is not strongly typed",
    ("BuilderFlag", "INT8"): "up to 10: where a network is not strongly typed",
    ("BuilderFlag", "OBEY_PRECISION_CONSTRAINTS"): "up to 10: where a network is not strongly typed",
    ("ILayer", "precision"): "up to 10: where a network is not strongly typed",
    ("ILayer", "set_output_type"): "up to 10: where a network is not strongly typed",
    ("", "IProgressMonitor"): "from 10 on: asked for by hasattr",
    ("IBuilderConfig", "progress_monitor"): "from 10 on, with a monitor only",
}
"""What some version lacks, and what the code does about it. Everything else must be in all of them."""


def names_of(library: str) -> dict[str, Names]:
    """The names of each version of a library."""
    data = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8"))[library]
    versions: dict[str, Names] = defaultdict(lambda: defaultdict(set))
    for together, owners in data.items():
        for version in together.split(", "):
            for owner, names in owners.items():
                versions[version][owner] |= set(names.split())
    return versions


TENSORRT, PYCUDA, CUDA_PYTHON = (names_of(library) for library in ("tensorrt", "pycuda", "cuda-python"))


def owner_of(node: ast.expr, classes: dict[str, str], members: set[str]) -> str | None:
    """The class of what an expression gives, where its name tells."""
    if isinstance(node, ast.Call):
        return owner_of(node.func, classes, members)
    if isinstance(node, ast.Name):
        return classes.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    if owner_of(node.value, classes, members) == "" and node.attr in members:
        return node.attr
    private = isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr.startswith("_")
    if private or node.attr in ("module", *(name for name in classes if "_" in name)):
        return classes.get(node.attr.removeprefix("_"))
    return None


def uses_in(path: Path, classes: dict[str, str], members: set[str]) -> Iterator[tuple[Use, bool]]:
    """Every name asked of a library, and whether the code looks first if it is there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = owner_of(node.value, classes, members)
            if owner is not None and not node.attr.startswith("__"):
                yield (owner, node.attr), False
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            owner = owner_of(node.args[0], classes, members)
            if owner is not None and isinstance(node.args[1], ast.Constant):
                yield (owner, str(node.args[1].value)), True


def members_of(versions: dict[str, Names]) -> set[str]:
    """Every class of any version."""
    return set().union(*versions.values())


def lacking(use: Use, versions: dict[str, Names]) -> list[str]:
    """The versions that do not have a name."""
    owner, name = use
    return [version for version, names in versions.items() if name not in names.get(owner, set())]


def uses_of_tensorrt(path: Path) -> Iterator[tuple[Use, bool]]:
    """Of one module."""
    other = SOMETHING_ELSE.get(path.name, set())
    classes = {name: owner for name, owner in CLASSES.items() if name not in other}
    return uses_in(path, classes, members_of(TENSORRT))


MODULES = sorted([*BACKENDS.glob("tensorrt*.py"), *(ROOT / "autotimm" / "export").glob("tensorrt*.py")])


def test_the_names_are_those_of_many_versions() -> None:
    found = [version.split(".")[0] for version in TENSORRT]
    assert {"8", "10", "11", "RTX 1"} <= set(found)
    assert set(PYCUDA) == {"2022.2.2", "2026.1"}
    assert {version.split(".")[0] for version in CUDA_PYTHON} == {"11", "12", "13"}
    for names in TENSORRT.values():  # what is known of them
        assert {"get_tensor_name", "get_tensor_mode"} <= names["ICudaEngine"]
    assert "num_bindings" in TENSORRT["8.6.1"]["ICudaEngine"]
    assert "num_bindings" not in TENSORRT["10.0.1"]["ICudaEngine"]
    assert "FP16" not in TENSORRT["11.4.0.106"]["BuilderFlag"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_names_of_tensorrt(path: Path) -> None:
    for use, is_asked_first in uses_of_tensorrt(path):
        absent = lacking(use, TENSORRT)
        assert len(absent) < len(TENSORRT), f"{use} is in no version"
        if absent and not is_asked_first:
            assert use in NOT_EVERYWHERE, f"{use} is not in {', '.join(absent)}"


def test_every_exception_is_needed() -> None:
    used = {use for path in MODULES for use, _ in uses_of_tensorrt(path)}
    assert len(used) > 20
    for use in NOT_EVERYWHERE:
        assert lacking(use, TENSORRT), f"{use} is in every version"
        assert use in used, f"{use} is not used"


def test_names_of_pycuda() -> None:
    uses = dict(uses_in(BACKENDS / "pycuda_memory.py", OF_PYCUDA, members_of(PYCUDA)))
    assert ("Device", "retain_primary_context") in uses
    assert ("device_attribute", "INTEGRATED") in uses
    for owner, name in uses:
        owners = {owner, "HostPointer"} if owner == "PagelockedHostAllocation" else {owner}  # its base class
        assert any(lacking((one, name), PYCUDA) == [] for one in owners), (owner, name)


def test_names_of_cuda_python() -> None:
    uses = dict(uses_in(BACKENDS / "cuda_python_memory.py", OF_CUDA_PYTHON, members_of(CUDA_PYTHON)))
    assert ("cudaMemcpyKind", "cudaMemcpyHostToDevice") in uses
    assert ("cudaDeviceProp", "integrated") in uses
    for use in uses:
        if not use[1].startswith(("cudaHostAlloc", "cudaStreamNonBlocking")) or use[1] == "cudaHostAlloc":
            assert lacking(use, CUDA_PYTHON) == [], use


def attributes_of(module: ModuleType) -> Iterator[Use]:
    """What a stand-in offers: its own names and those of its classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or name == "contexts":
            continue
        yield "", name
        for attribute in dir(value) if isinstance(value, type) else ():
            if not attribute.startswith("_") and not hasattr(BaseException, attribute) and not hasattr(int, attribute):
                yield name, attribute


@pytest.mark.parametrize(
    ("stand_in", "versions"),
    [
        (tensorrt_of(FakeCuda()), TENSORRT),
        (pycuda_of(FakeCuda())["pycuda.driver"], PYCUDA),
        (cuda_python_of(FakeCuda())["cuda.bindings.runtime"], CUDA_PYTHON),
    ],
    ids=["tensorrt", "pycuda", "cuda-python"],
)
def test_the_stand_ins_offer_nothing_else(stand_in: Any, versions: dict[str, Names]) -> None:
    for owner, name in attributes_of(stand_in):
        if (owner, name) in (("PagelockedHostAllocation", "get_device_pointer"), ("DataType", "BF16")):
            continue  # of its base class HostPointer; of versions from 10 on
        if name in ("name", "value") or name.startswith(("cudaHostAlloc", "cudaStreamNonBlocking")):
            continue
        assert lacking((owner, name), versions) == [], (owner, name)
