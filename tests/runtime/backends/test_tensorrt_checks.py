"""What is said of engines that cannot run here, before TensorRT sees them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotimm.runtime import (
    ArtifactError,
    BackendUnavailableError,
    Manifest,
    Preprocess,
    TensorSpec,
    load,
    read_manifest,
)
from autotimm.runtime.backends import cuda_buffers, cuda_python_memory, pycuda_memory
from autotimm.runtime.backends.tensorrt_checks import check_device, check_record
from autotimm.runtime.backends.tensorrt_library import import_tensorrt, version_numbers
from autotimm.runtime.files import sha256_of
from autotimm.runtime.sidecar import EngineRecord, sidecar_of, this_platform

RECORD = EngineRecord("tensorrt", "10.3.0", this_platform(), gpu="Orin", compute_capability="8.7")
MANIFEST = Manifest(
    task="classification",
    architecture="nothing",
    class_names=("cat", "dog"),
    preprocess=Preprocess((4, 6)),
    inputs=(TensorSpec("images", "uint8", (1, 4, 6, 3)),),
    outputs=(TensorSpec("probabilities", "float32", (1, 2)),),
    format="trt",
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"a plan")
    describe(path, RECORD)
    return path


def describe(path: Path, record: EngineRecord) -> EngineRecord:
    record = replace(record, plan_sha256=sha256_of(path))
    sidecar_of(path).write_text(replace(MANIFEST, engine=record).to_json())
    return record


def test_a_manifest_needs_no_tensorrt(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert read_manifest(engine).engine == describe(engine, RECORD)


def test_no_file_beside_it(engine: Path) -> None:
    sidecar_of(engine).unlink()
    for read in (read_manifest, load):
        with pytest.raises(ArtifactError, match=r"model\.engine: model\.engine\.json is .*beside it.* autotimm build "):
            read(engine)


@pytest.mark.parametrize("text", ["", "{half of", "[]", '{"schema": "autotimm.manifest/2"}'])
def test_a_damaged_file_beside_it(engine: Path, text: str) -> None:
    sidecar_of(engine).write_text(text)
    for read in (read_manifest, load):
        with pytest.raises(ArtifactError, match=r"model\.engine"):
            read(engine)


def test_a_manifest_of_something_else(engine: Path) -> None:
    sidecar_of(engine).write_text(MANIFEST.to_json())
    with pytest.raises(
        ArtifactError, match="says nothing about an engine; build it on this machine with autotimm build"
    ):
        load(engine)


def test_no_engine(engine: Path) -> None:
    engine.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is empty"):
        load(engine)
    engine.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load(engine)


def test_an_engine_that_runs_here(engine: Path) -> None:
    record = describe(engine, RECORD)
    for version in ("10.3.0", "10.3", "10.3.0.post1", "10.3.0.26"):
        check_record(engine, record, version)


@pytest.mark.parametrize(
    ("built", "here", "compatible", "runs"),
    [
        ("10.3.0", "10.3.1", False, False),
        ("10.3.0", "10.13.3.9.post1", False, False),
        ("10.13.3.9", "10.13.3.9.post1", False, True),
        ("10.13.3.9", "10.13.3.10", False, False),
        ("10.3.0", "10.13.3.9", True, True),
        ("10.13.3.9", "10.3.0", True, False),  # only later versions read it
        ("8.6.1", "10.3.0", True, True),
        ("8.6.1", "11.4.0", True, False),  # only one major version later
        ("10.16.1", "11.4.0", True, True),
        ("unknown", "10.3.0", True, False),
    ],
)
def test_engines_of_other_versions(engine: Path, built: str, here: str, compatible: bool, runs: bool) -> None:
    record = describe(engine, replace(RECORD, version=built, options={"version_compatible": compatible}))
    if runs:
        check_record(engine, record, here)
        return
    with pytest.raises(ArtifactError) as caught:
        check_record(engine, record, here)
    assert f"model.engine: was built by TensorRT {built} and this is TensorRT {here}; " in str(caught.value)
    assert str(caught.value).endswith(
        f"build it on this machine with autotimm build {engine.with_suffix('.onnx')} -o {engine}"
    )
    portable = engine.with_name("model.portable.onnx")  # as --format trt leaves it
    portable.touch()
    with pytest.raises(ArtifactError) as caught:
        check_record(engine, record, here)
    assert str(caught.value).endswith(f"autotimm build {portable} -o {engine}")


def test_an_engine_of_another_platform(engine: Path) -> None:
    record = describe(engine, replace(RECORD, platform="linux-riscv64"))
    with pytest.raises(ArtifactError, match=f"was built on linux-riscv64 and this is {this_platform()}; "):
        check_record(engine, record, "10.3.0")


def test_an_engine_that_is_not_the_one_described(engine: Path) -> None:
    record = describe(engine, RECORD)
    engine.write_bytes(b"another plan")
    with pytest.raises(ArtifactError, match=r"not the engine that model\.engine\.json describes.* autotimm build "):
        check_record(engine, record, "10.3.0")


@pytest.mark.parametrize(
    ("built", "here", "compatibility", "said"),
    [
        ("8.7", "8.7", "none", ""),
        ("", "8.9", "none", ""),
        ("8.7", "8.9", "none", "compute capability 8.7 (Orin) and this device is RTX 4090, compute capability 8.9"),
        ("8.7", "8.9", "same_compute_capability", "was built for compute capability 8.7"),
        ("8.7", "8.9", "ampere_plus", ""),
        ("8.7", "12.0", "ampere_plus", ""),
        ("8.7", "7.5", "ampere_plus", "was built for compute capability 8.0 or newer"),
    ],
)
def test_engines_of_other_devices(engine: Path, built: str, here: str, compatibility: str, said: str) -> None:
    record = replace(RECORD, compute_capability=built, options={"hardware_compatibility": compatibility})
    device: Any = SimpleNamespace(name="RTX 4090", compute_capability=here)
    if not said:
        check_device(engine, record, device)
        return
    with pytest.raises(ArtifactError) as caught:
        check_device(engine, record, device)
    assert said in str(caught.value)
    assert f"autotimm build {engine.with_suffix('.onnx')} -o {engine}" in str(caught.value)


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "trt"), ("tensorrt_rtx", "trt-rtx")])
def test_without_tensorrt(engine: Path, monkeypatch: pytest.MonkeyPatch, flavour: Any, extra: str) -> None:
    """Each flavour is another package; that the other one is installed does not help."""
    describe(engine, replace(RECORD, flavour=flavour))
    other = "tensorrt" if flavour == "tensorrt_rtx" else "tensorrt_rtx"
    monkeypatch.setitem(sys.modules, flavour, None)
    monkeypatch.setitem(sys.modules, other, SimpleNamespace(__version__="10.3.0"))  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError) as caught:
        load(engine)
    assert (
        f"running model.engine needs {flavour}, which is not installed: pip install 'autotimm-deploy[{extra}]'"
        in str(caught.value)
    )


def test_tensorrt_on_a_jetson_comes_with_jetpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("autotimm.runtime.backends.tensorrt_library.on_jetson", lambda: True)
    with pytest.raises(BackendUnavailableError, match=r"apt install nvidia-jetpack.*--system-site-packages") as caught:
        import_tensorrt("tensorrt", "this")
    assert "pip install" not in str(caught.value)  # what an index has is for servers


def test_tensorrt_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(BackendUnavailableError, match=r"does not import \(libnvinfer\.so\.10: cannot open shared"):
        import_tensorrt("tensorrt", "this")


def test_without_a_library_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda.driver", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"needs pycuda or cuda-python.* pip install pycuda, or cuda"):
        cuda_buffers.open_device()


def test_pycuda_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(pycuda_memory, "load", load)
    with pytest.raises(
        BackendUnavailableError, match=r"pycuda is installed, but CUDA does not start \(libcuda\.so\.1: "
    ):
        cuda_buffers.open_device()


def test_a_process_forked_from_one_that_used_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was another library that used it, so only the driver knows."""
    error = type("Error", (Exception,), {})

    def init() -> None:
        raise error("cuInit failed: initialization error")

    driver = SimpleNamespace(init=init, Error=error)
    with pytest.raises(BackendUnavailableError, match=r"perhaps CUDA was started before this process was forked"):
        pycuda_memory.open_device(driver, 0)


def test_cuda_python_without_a_driver() -> None:
    """The real package, where it is installed: training brings it along."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("this machine has a device")
    with pytest.raises(
        BackendUnavailableError, match=r"cuda-python is installed, but CUDA does not start \(cudaError\w+: "
    ):
        cuda_python_memory.open_device(cuda_python_memory.load(), 0)


def test_versions() -> None:
    assert version_numbers("10.13.3.9.post1") == (10, 13, 3, 9)
    assert version_numbers("8.6") == (8, 6)
    assert version_numbers("unknown") == ()
