"""int8 artifacts from checkpoint to verified file, and what must not pass for one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autotimm.evaluation import evaluate
from autotimm.export import CalibrationSettings, export_to_onnx
from autotimm.export.accuracy import accuracy_settings
from autotimm.export.comparison import Differences, compare_detections
from autotimm.export.onnx import embed_manifest
from autotimm.export.quantization import QuantizableGraph
from autotimm.export.sensitivity import AnswerError, answers, choose_kept, rank_layers
from autotimm.export.tolerances import _MATCHING, INT8
from autotimm.export.verification import _note_shares, verify_artifact
from autotimm.models import load_checkpoint
from autotimm.models.torch_backend import predictor_of
from autotimm.runtime import Manifest, load, read_manifest
from autotimm.runtime.errors import ConfigError, VerificationError
from autotimm.runtime.pictures import choose_pictures
from autotimm.runtime.preprocess import Preprocess
from autotimm.runtime.results import Detections


@pytest.fixture(scope="module")
def quantized(trained_checkpoint: Path, color_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of colours in int8, measured on the colours."""
    path = tmp_path_factory.mktemp("int8") / "colors.onnx"
    settings = CalibrationSettings(color_images / "train", images=8)
    export_to_onnx(trained_checkpoint, path, precision="int8", calibration=settings, data=color_images, max_drop=0.1)
    return path


def test_an_int8_artifact_says_how_it_came_about(quantized: Path, trained_checkpoint: Path, color_images: Path) -> None:
    manifest = read_manifest(quantized)
    record, accuracy = manifest.quantization, manifest.accuracy
    assert manifest.precision == "int8"
    assert manifest.target == "onnxruntime"  # TensorRT does not build this flavour
    assert manifest.verification.status == "passed"
    assert record is not None
    assert (record.images, record.image_source, record.method) == (8, "8 of 18 images: train", "percentile")
    assert "network.fc" in record.kept  # it gives the answers
    assert 0 < record.relative_error < 0.2
    assert accuracy is not None
    assert (accuracy.figure, accuracy.images, accuracy.max_drop) == ("accuracy", 12, 0.1)
    assert accuracy.value == pytest.approx(evaluate(quantized, color_images)["accuracy"])
    assert accuracy.reference == pytest.approx(evaluate(trained_checkpoint, color_images)["accuracy"])
    assert Manifest.from_json(manifest.to_json(), "again") == manifest
    kinds = {numpy_helper.to_array(value).dtype.name for value in onnx.load(quantized).graph.initializer}
    assert {"int8", "uint8", "int32"} <= kinds


def test_a_wrong_scale_is_found(quantized: Path, trained_checkpoint: Path, tmp_path: Path) -> None:
    proto, manifest = onnx.load(quantized), read_manifest(quantized)
    for value in proto.graph.initializer:
        if value.name.endswith("_scale") and not value.dims:  # of activations; those of weights have one a channel
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value) * np.float32(60), value.name))
    embed_manifest(proto, manifest)
    onnx.save(proto, tmp_path / "broken.onnx")
    model = load_checkpoint(trained_checkpoint)
    record = verify_artifact(
        tmp_path / "broken.onnx", predictor_of(model), pictures=choose_pictures(None, model.validation_images)
    )
    assert record.status == "failed"


@pytest.mark.parametrize(("found", "passes"), [(20, True), (10, False), (0, False)])
def test_lost_detections_are_found(found: int, passes: bool) -> None:
    """Of twenty objects with a certain score and a hundred at the threshold only so many are left."""
    corners = np.arange(120, dtype=np.float32)[:, None] * 30
    boxes = np.concatenate([corners, corners, corners + 20, corners + 20], axis=1)
    scores = np.where(np.arange(120) < 20, 0.8, 0.02).astype(np.float32)
    ours, theirs = (
        Detections((4000, 4000), ("cell",), boxes[:count], scores[:count], np.zeros(count, np.int32))
        for count in (found, 120)
    )
    differences = Differences()
    placement = Preprocess(size=(4000, 4000)).place(4000, 4000)
    limits = {"score": 0.01, "iou": 0.5, "max_detections": 200}
    compare_detections(differences, theirs, ours, placement, thresholds=limits, matching=_MATCHING["int8"])
    _note_shares(differences)
    assert (not differences.exceeding(INT8["detection"])) == passes


def test_too_much_lost_is_rejected(
    trained_checkpoint: Path, color_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {"ranges": 0}

    def narrow(graph: QuantizableGraph, found: Any, keep: Any = ()) -> onnx.ModelProto:
        ranges["ranges"] += 1
        return original(graph, {name: (low / 50, high / 50) for name, (low, high) in found.items()}, ())

    original = QuantizableGraph.quantized
    monkeypatch.setattr(QuantizableGraph, "quantized", narrow)
    with pytest.raises(VerificationError, match=r"int8 costs more than 0: accuracy .*points lower, on 12 images"):
        export_to_onnx(
            trained_checkpoint, tmp_path / "c.onnx", precision="int8", data=color_images, max_drop=0.0, verify=False
        )  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.rejected.json", "c.rejected.onnx"]
    assert json.loads((tmp_path / "c.rejected.json").read_text())["accuracy"]["max_drop"] == 0.0


def test_layers_that_hurt_are_found(classifier_artifact: Path) -> None:
    """One range is made far too wide: the layer that reads it is ranked first, and keeping it mends the answers."""
    proto = onnx.load(classifier_artifact)
    graph = QuantizableGraph(proto, "portable")
    with load(classifier_artifact) as predictor:
        feed = {"images": predictor.prepare(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))[0][None]}
    from autotimm.export.ranges import measure_ranges

    ranges = measure_ranges(proto, graph.values_to_calibrate(), [feed], "minmax")
    victim = graph.layers[2]
    node = next(node for node in proto.graph.node if graph.owner.get(node.name) == victim)
    low, high = ranges[node.input[0]]
    ranges[node.input[0]] = (200 * low, 200 * high)
    error = AnswerError(proto, [feed])
    assert len(answers(proto)) == 1
    alone = rank_layers(graph, ranges, error)
    assert next(iter(alone)) == victim
    kept, left = choose_kept(graph, ranges, error, alone)
    assert victim in kept
    assert left <= 0.2 < error(graph.quantized(ranges))


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="give --data DIR"):
        accuracy_settings("int8", None, "val", 0.01)
    with pytest.raises(ConfigError, match="split is 'test', but there are no data"):
        accuracy_settings("int8", None, "test", None)
    with pytest.raises(ConfigError, match="fp32 costs nothing"):
        accuracy_settings("fp32", "photos", "val", None)
    with pytest.raises(ConfigError, match=r"\.01 is one point"):
        accuracy_settings("int8", "photos", "val", 1.5)
