import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import helper

from autotimm.runtime import Manifest, environment, read_manifest
from autotimm.runtime.environment import Finding
from autotimm.runtime.sidecar import EngineRecord, sidecar_of

Run = Callable[..., Any]


def compact(text: str) -> str:
    return "".join(text.split())


def test_inspect_an_artifact(run: Run, detector_artifact: Path) -> None:
    outcome = run("inspect", detector_artifact)
    assert (outcome.status, outcome.err) == (0, "")
    text = compact(outcome.out)
    for said in (
        "yolox-nano (YOLOXDetector), detection",
        "3: cat, dog, fox",
        "onnx, fp32, opset 18, for onnxruntime",
        "uint8[batch, 96, 128, 3]",  # a free dimension is not taken for markup
        "float32[batch, 100, 4]",
        "size [96, 128], fit letterbox, align top_left",
        "score 0.3, iou 0.5, max_detections 100, candidates 1000",
        "verification: passed on 6 images",
    ):
        assert compact(said) in text
    manifest = read_manifest(detector_artifact)
    assert manifest.hashes["graph_sha256"][:16] in text
    assert manifest.created in text


def test_inspect_a_checkpoint(run: Run, trained_checkpoint: Path) -> None:
    text = compact(run("inspect", trained_checkpoint).out)
    assert "test_resnet(ImageClassifier),classification" in text
    assert "3:blue,green,red" in text
    assert "uint8[batch,32,32,3]" in text
    assert "verification" not in text


def test_inspect_as_json_is_the_manifest(run: Run, classifier_artifact: Path, tmp_path: Path) -> None:
    outcome = run("inspect", classifier_artifact, "--json", "-")
    assert Manifest.from_json(outcome.out, "here") == read_manifest(classifier_artifact)
    assert json.loads(outcome.out)["schema"] == "autotimm.manifest/1"
    silent = run("inspect", classifier_artifact, "--json", tmp_path / "manifest.json")
    assert (silent.status, silent.out, silent.err) == (0, "", "")
    assert (tmp_path / "manifest.json").read_text() == outcome.out


def with_manifest(artifact: Path, path: Path, text: str | None) -> Path:
    model = onnx.load(artifact)
    del model.metadata_props[:]
    if text is not None:
        helper.set_model_props(model, {"autotimm": text})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("command", ["inspect", "predict", "benchmark", "evaluate", "verify"])
@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "has no AutoTimm manifest"),
        ({"schema": "autotimm.manifest/2"}, "pip install --upgrade autotimm-deploy"),
        ({"schema": "somebody.else/1"}, "not an AutoTimm manifest"),
        ({"class_names": None}, "the manifest is damaged"),
        ({"preprocess": {"size": [0, 1]}}, "the manifest is damaged"),
        ("{half of", "the manifest is not readable"),
    ],
)
def test_artifacts_that_do_not_describe_themselves(
    run: Run,
    classifier_artifact: Path,
    photos: Path,
    color_images: Path,
    tmp_path: Path,
    command: str,
    manifest: dict[str, Any] | str | None,
    message: str,
) -> None:
    if isinstance(manifest, dict):
        manifest = json.dumps({**json.loads(read_manifest(classifier_artifact).to_json()), **manifest})
    artifact = with_manifest(classifier_artifact, tmp_path / "model.onnx", manifest)
    further = {
        "predict": [photos / "one"],
        "evaluate": ["--data", color_images],
        "verify": ["--against", classifier_artifact],
    }
    outcome = run(command, artifact, *further.get(command, []))
    assert outcome.complaint.startswith(f"error: {artifact}: ")
    assert message in outcome.complaint
    assert outcome.out == ""


def test_what_is_no_model(run: Run, tmp_path: Path) -> None:
    files = {"empty.onnx": b"", "text.onnx": b"text", "empty.ckpt": b"", "photo.jpg": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert name in run("inspect", tmp_path / name).complaint
    assert "no such file" in run("inspect", tmp_path / "none.onnx").complaint
    assert "no such file" in run("inspect", tmp_path / "none.ckpt").complaint
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in run("inspect", tmp_path / "folder.onnx").complaint


def test_backbones(run: Run) -> None:
    outcome = run("backbones", "resnet1*")
    assert outcome.status == 0
    names = outcome.out.splitlines()
    assert {"resnet18", "resnet101"} <= set(names)
    assert all(name.startswith("resnet1") for name in names)
    assert outcome.err == f"{len(names)} backbones\n"
    trained = run("backbones", "test_*", "--pretrained").out.splitlines()
    assert trained
    assert not any(name.startswith("test_maxvit") for name in trained)
    near = run("backbones", "efficientnett_b0").complaint
    assert "no backbone matches 'efficientnett_b0'; did you mean efficientnet_b0, " in near
    assert "did you mean mobilenet, " in run("backbones", "mobilnet*").complaint  # a family, which is a pattern too
    assert run("backbones", "mobilenet").status == 0
    none = run("backbones", "zzzz", "--pretrained").complaint
    assert none == "error: no backbone with pretrained weights matches 'zzzz'; autotimm backbones lists all of them"


def test_doctor(run: Run) -> None:
    outcome = run("doctor")
    assert (outcome.status, outcome.err) == (0, "")
    text = compact(outcome.out)
    for finding in environment.diagnose():
        assert compact(finding.what)[:12] in text
    rows = json.loads(run("doctor", "--json", "-").out)
    assert rows == [finding.to_dict() for finding in environment.diagnose()]
    assert all(row["works"] for row in rows if "engine" not in row["what"])
    assert [row["what"] for row in rows if "engine" in row["what"]] == [
        "engines of TensorRT",
        "engines of TensorRT-RTX",
        "CUDA device for engines",
    ]


def test_doctor_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Finding("exporting", False, "nothing", "pip install 'autotimm-deploy[export]'")
    monkeypatch.setattr(environment, "diagnose", lambda: [absent])
    text = run("doctor").out
    assert "absent" in text
    assert text.splitlines()[-1] == "pip install 'autotimm-deploy[export]'  # for exporting"  # a line to copy


def test_doctor_names_devices_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = ["AzureExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    found = {finding.what: finding for finding in environment.diagnose()}
    assert found["predicting on ONNX artifacts"].found == f"onnxruntime {onnxruntime.__version__}, offered: cpu, cuda"


@pytest.mark.parametrize(
    ("source", "works", "said"),
    [
        ("class cuda:\n    is_available = lambda: True\n", True, "torch has CUDA"),
        ("class cuda:\n    is_available = lambda: False\n", True, "torch has no CUDA"),
        (
            "raise ImportError('libcudart.so is missing')\n",
            False,
            "does not import: ImportError: libcudart.so is missing",
        ),
    ],
)
def test_doctor_asks_torch(
    source: str, works: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torch that shadows the installed one."""
    (tmp_path / "torch.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = (f for f in environment.diagnose() if f.what == "training and reading checkpoints")
    assert finding.works is works
    assert finding.found.endswith(said)
    assert (finding.remedy == "") is works


@pytest.mark.parametrize(
    ("source", "works", "found"),
    [
        ("__version__ = '10.3.0'\n", True, "tensorrt 10.3.0"),
        (
            "raise ImportError('libnvinfer.so.10 is missing')\n",
            False,
            "tensorrt does not import: ImportError: libnvinfer",
        ),
        ("import os; os.abort()\n", False, "tensorrt does not import: exit status -6"),
        (None, False, "nothing"),
    ],
)
def test_doctor_asks_tensorrt(
    source: str | None, works: bool, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_torch_devices", lambda: (True, ""))
    if source is not None:
        (tmp_path / "tensorrt.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = (f for f in environment.diagnose() if f.what == "engines of TensorRT")
    assert finding.works is works
    assert finding.found.startswith(found)
    assert finding.remedy == ("" if works else "pip install 'autotimm-deploy[trt]'")


def test_doctor_on_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_torch_devices", lambda: (True, ""))
    monkeypatch.setattr(environment, "on_jetson", lambda: True)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    remedies = {finding.what: finding.remedy for finding in environment.diagnose()}
    assert remedies["engines of TensorRT"] == "sudo apt install nvidia-jetpack"
    assert remedies["engines of TensorRT-RTX"] == ""


def test_doctor_looks_for_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pycuda that cannot open the driver."""
    monkeypatch.setattr(environment, "_torch_devices", lambda: (True, ""))
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    (finding,) = (f for f in environment.diagnose() if f.what == "CUDA device for engines")
    assert not finding.works
    assert finding.found.startswith("pycuda is installed, but CUDA does not start (libcuda.so.1: cannot open shared")


def test_inspect_an_engine_needs_no_tensorrt(run: Run, detector_artifact: Path, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"a plan")
    record = EngineRecord("tensorrt", "10.3.0", "linux-aarch64", gpu="Orin", compute_capability="8.7")
    manifest = replace(read_manifest(detector_artifact), format="trt", engine=record)
    sidecar_of(engine).write_text(manifest.to_json())
    outcome = run("inspect", engine)
    assert (outcome.status, outcome.err) == (0, "")
    assert "trt, fp32" in outcome.out
    assert Manifest.from_json(run("inspect", engine, "--json", "-").out, "here") == manifest
    sidecar_of(engine).unlink()
    assert "model.engine.json" in run("inspect", engine).complaint
