"""Write ``tensorrt_names.json``: which names the packages of TensorRT, pycuda and cuda-python have, version by version.

    pip download --no-deps tensorrt-bindings==8.6.1 tensorrt-cu12-bindings==10.3.0 ... pycuda cuda-bindings ...
    python tests/runtime/backends/collect_tensorrt_names.py FOLDER

The packages are the real ones. Those of TensorRT are loaded without TensorRT and without a GPU, against stubs of the
shared libraries that they need; their classes are all there before anything of the libraries is called. pycuda cannot
be imported without a driver, so its names are read from the sources of its module. Needs gcc and binutils, and a Python
that all of the packages are built for (3.11: TensorRT 8.6 has none for newer ones).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

OUTPUT = Path(__file__).with_name("tensorrt_names.json")
Names = dict[str, set[str]]
"""The attributes of each class of a module; its own names under the empty string."""

_OF_LIBRARIES = (
    r"\w+_INTERNAL|get\w*PluginRegistry|getNvOnnxParserVersion|initLibNvInferPlugins|_ZN\d+nv(uff|caffe)parser\w*"
)
_UNUSED = r"IAlgorithm|IPlugin|Plugin|V2|Uff|Caffe|nvinfer|I[A-Z][A-Za-z]*Layer|IInt8|Weights|Permutation"
"""Classes that AutoTimm has no use for: plugins, calibrators, parsers of old formats, layers that parsers make."""
_KEPT_FUNCTIONS = r"cuda(Malloc|Free|Host|Memcpy|Stream|Event|Get|Set|Mem|Runtime|Driver|Device)\w*"
_KEPT_CLASSES = ("cudaError_t", "cudaMemcpyKind", "cudaDeviceProp", "cudaDeviceAttr")

_LOAD = """
import ctypes, importlib, inspect, json, pathlib, sys
folder, stubs, package = sys.argv[1:]
for stub in sorted(pathlib.Path(stubs).iterdir()):
    ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
sys.path.insert(0, folder)
module = importlib.import_module(package)
public = {name: value for name, value in vars(module).items() if not name.startswith("_") or name == "__version__"}
names = {"": sorted(public)}
for name, value in public.items():
    if inspect.isclass(value):
        names[name] = sorted({n for n in dir(value) if not n.startswith("_")})
print(json.dumps([getattr(module, "__version__", ""), names]))
"""


def main() -> None:
    """Collect everything that lies in the folder."""
    found: dict[str, dict[str, Names]] = {"tensorrt": {}, "pycuda": {}, "cuda-python": {}}
    for archive in sorted(Path(sys.argv[1]).rglob("*")):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if re.match(r"tensorrt.*bindings.*\.whl", archive.name):
                version, names = names_of_tensorrt(archive, folder)
                found["tensorrt"][version] = {key: value for key, value in names.items() if not re.match(_UNUSED, key)}
            elif re.match(r"pycuda-.*\.tar\.gz", archive.name):
                found["pycuda"][archive.name.split("-")[1].removesuffix(".tar.gz")] = names_of_pycuda(archive)
            elif re.match(r"cuda_(bindings|python)-.*\.whl", archive.name):
                found["cuda-python"][archive.name.split("-")[1]] = names_of_cuda_python(archive, folder)
    text = json.dumps({library: compact(versions) for library, versions in found.items()}, indent=0)
    OUTPUT.write_text(text + "\n", encoding="utf-8")


def names_of_tensorrt(wheel: Path, folder: Path) -> tuple[str, Names]:
    """Version and names of a wheel of bindings."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")
    (module,) = (folder / "package").glob("tensorrt*_bindings/*.so")
    undefined = _output("nm", "-D", "--undefined-only", str(module)).split()
    needed = re.findall(r"NEEDED\s+(lib(?:nv|tensorrt)\S+)", _output("objdump", "-p", str(module)))
    symbols = [symbol for symbol in undefined if re.fullmatch(_OF_LIBRARIES, symbol)]
    (folder / "stub.c").write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
    (folder / "stubs").mkdir()
    for library in needed:
        _output("gcc", "-shared", "-fPIC", "-o", str(folder / "stubs" / library), str(folder / "stub.c"))
    version, names = _loaded(folder / "package", folder / "stubs", module.parent.name)
    return ("RTX " if "rtx" in module.name else "") + version, names


def names_of_cuda_python(wheel: Path, folder: Path) -> Names:
    """Names of the runtime's module: ``cuda.cudart`` is the older of its two homes."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "package")
    (folder / "stubs").mkdir()
    home = "cuda.bindings.runtime" if (folder / "package/cuda/bindings").is_dir() else "cuda.cudart"
    _, names = _loaded(folder / "package", folder / "stubs", home)
    kept = {name for name in names[""] if re.fullmatch(_KEPT_FUNCTIONS, name) and not re.search(r"_(ptsz|v\d+)$", name)}
    classes = {name: names[name] for name in _KEPT_CLASSES if name in names}
    return {"": kept | set(classes), **classes}


def names_of_pycuda(sources: Path) -> Names:
    """Names of ``pycuda.driver``, as its C++ sources give them to Boost.Python."""
    with tarfile.open(sources) as archive:
        (member,) = (name for name in archive.getnames() if name.endswith("wrap_cudadrv.cpp"))
        text = archive.extractfile(member).read().decode()  # type: ignore[union-attr]
    names: Names = defaultdict(set)
    current = ""
    pattern = (
        r'py::(?:class_|enum_)<.*?>\s*(?:\w+\s*)?\(\s*"(?P<opened>\w+)"|py::(?P<closed>def)\("(?P<function>\w+)"'
        r"|DEF_SIMPLE_FUNCTION\w*\((?P<simple>\w+)|\.DEF_SIMPLE_METHOD\w*\((?P<method>\w+)"
        r'|\.def\("(?P<defined>\w+)"|\.add_property\("(?P<property>\w+)"|\.value\("(?P<value>\w+)"'
        r'|cls\.attr\("(?P<attribute>\w+)"|DECLARE_EXC\((?P<exception>\w+),'
    )
    for match in re.finditer(pattern, text, re.DOTALL):
        groups = {kind: name for kind, name in match.groupdict().items() if name and kind != "closed"}
        ((kind, name),) = groups.items()
        if kind == "opened":
            current = name
        names[current if kind in ("method", "defined", "property", "value", "attribute") else ""].add(name)
    return names


def compact(versions: dict[str, Names]) -> dict[str, dict[str, str]]:
    """Names put together by the versions that have them: ``{"8.6.1 10.3.0": {"Runtime": "logger max_threads"}}``."""
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for version, names in sorted(versions.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]):
        for owner, attributes in names.items():
            for attribute in attributes:
                where[owner, attribute].append(version)
    together: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for (owner, attribute), having in sorted(where.items()):
        together[", ".join(having)][owner].append(attribute)
    return {key: {owner: " ".join(names) for owner, names in owners.items()} for key, owners in together.items()}


def _loaded(folder: Path, stubs: Path, package: str) -> tuple[str, Names]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(stubs)}
    command = [sys.executable, "-c", _LOAD, str(folder), str(stubs), package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    version, names = json.loads(done.stdout)
    return version, {owner: set(attributes) for owner, attributes in names.items()}


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
