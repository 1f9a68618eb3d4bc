"""Real engines, built by TensorRT-RTX, which needs no GPU for it: pip install tensorrt-rtx-cu13."""

import json
from pathlib import Path

import onnx
import pytest

from autotimm.export import export_to_onnx, export_to_tensorrt
from autotimm.export.onnx import embed_manifest
from autotimm.models import ImageClassifier, YOLOXDetector
from autotimm.runtime import read_manifest
from autotimm.runtime.errors import ExportError
from autotimm.runtime.sidecar import sidecar_of

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")


def test_a_detector_for_several_images(detector: YOLOXDetector, tmp_path: Path) -> None:
    engine = tmp_path / "detector.engine"
    phases: dict[str, float] = {}
    manifest = export_to_tensorrt(
        detector,
        engine,
        flavour="tensorrt_rtx",
        profile_batch=(1, 2, 4),
        progress=phases.__setitem__,
        onnx_options={"batch": "dynamic", "verify": False},
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "detector.engine",
        "detector.engine.json",
        "detector.portable.onnx",
    }
    assert engine.stat().st_size > 3e6
    record = manifest.engine
    assert record is not None
    assert record.profile["images"].maximum == (4, 96, 128, 3)
    assert record.precisions["float32"] > 100
    assert "float16" not in record.precisions
    assert record.remarks == ()
    assert manifest.verification.status == "not run"
    assert len(phases) > 3
    assert max(phases.values()) > 0.5
    assert json.loads(sidecar_of(engine).read_text())["engine"]["flavour"] == "tensorrt_rtx"


def test_a_node_it_cannot_build_is_named(detector_artifact: Path, tmp_path: Path) -> None:
    proto = onnx.load(detector_artifact)
    manifest = read_manifest(detector_artifact)
    path = tmp_path / "operator.onnx"
    text = manifest.to_json().replace('"onnxruntime"', '"portable"')
    embed_manifest(proto, type(manifest).from_json(text, ""))  # so that it gets as far as the builder
    onnx.save(proto, path)
    with pytest.raises(ExportError, match=r"cannot build NonMaxSuppression in the post-processing .*--target portable"):
        export_to_tensorrt(path, tmp_path / "model.engine", flavour="tensorrt_rtx")
    for node in proto.graph.node:
        if node.op_type == "Conv":
            node.op_type, node.domain = "DeformedConv", "of.nobody"
            broken = node.name
            break
    onnx.save(proto, path)
    with pytest.raises(ExportError, match=rf"cannot read DeformedConv in the network \({broken.partition('/')[0]}\)"):
        export_to_tensorrt(path, tmp_path / "model.engine", flavour="tensorrt_rtx")
    assert [file.name for file in tmp_path.iterdir()] == ["operator.onnx"]


def test_a_precision_that_the_graph_does_not_have_is_an_error(classifier: ImageClassifier, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_to_onnx(classifier, path, target="portable", size=(32, 32), verify=False)
    proto = onnx.load(path)
    manifest = read_manifest(path)
    embed_manifest(proto, type(manifest).from_json(manifest.to_json().replace('"fp32"', '"int8"'), ""))
    onnx.save(proto, path)
    with pytest.raises(ExportError, match=r"int8 was asked for, but TensorRT-RTX .* built no layer in it"):
        export_to_tensorrt(path, tmp_path / "model.engine")
