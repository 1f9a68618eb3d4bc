"""Tiny ONNX artifacts whose answers are known, with the manifest that a real export would give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotimm.runtime import Manifest, Preprocess, TensorSpec

SIZE = (32, 48)
BOXES = np.array([[[4, 8, 24, 28], [-8, -8, 60, 60], [0, 0, 0, 0]]], np.float32)

ArtifactMaker = Callable[..., Path]


def detection_manifest(batch: int | str) -> Manifest:
    return Manifest(
        task="detection",
        architecture="two fixed boxes",
        class_names=("cat", "dog"),
        preprocess=Preprocess(SIZE, fit="letterbox", align="top_left", antialias=False),
        inputs=(TensorSpec("images", "uint8", (batch, *SIZE, 3)),),
        outputs=(
            TensorSpec("num_detections", "int32", (batch, 1)),
            TensorSpec("boxes", "float32", (batch, 3, 4)),
            TensorSpec("scores", "float32", (batch, 3)),
            TensorSpec("labels", "int32", (batch, 3)),
        ),
        thresholds={"score": 0.25, "iou": 0.45},
    )


def detection_model(batch: int | str) -> onnx.ModelProto:
    """Two boxes an image, the first scored with the mean brightness of its pixels, 0..1."""
    constants = {
        "box_table": BOXES,
        "label_table": np.array([[0, 1, -1]], np.float32),
        "score_table": np.array([[1.0, 0.0, 0.0]], np.float32),
        "white": np.array(255, np.float32),
        "nothing": np.array(0, np.float32),
        "two": np.array(2, np.float32),
        "second_axis": np.array([1], np.int64),
        "pixel_axes": np.array([1, 2, 3], np.int64),
        "last_axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["mean"]),
        helper.make_node("Div", ["mean", "white"], ["mean01"]),
        helper.make_node("Squeeze", ["mean01", "last_axes"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "score_table"], ["scores"]),
        helper.make_node("Mul", ["brightness", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "two"], ["count"]),
        helper.make_node("Cast", ["count"], ["num_detections"], to=TensorProto.INT32),
        helper.make_node("Add", ["zero", "label_table"], ["label_rows"]),
        helper.make_node("Cast", ["label_rows"], ["labels"], to=TensorProto.INT32),
        helper.make_node("Unsqueeze", ["zero", "second_axis"], ["zero_row"]),
        helper.make_node("Add", ["zero_row", "box_table"], ["boxes"]),
    ]
    return _model(nodes, constants, detection_manifest(batch))


def classification_manifest(batch: int | str, *, multi_label: bool = False) -> Manifest:
    return Manifest(
        task="classification",
        architecture="brightness",
        class_names=("dark", "light", "other"),
        preprocess=Preprocess((8, 8), fit="crop", crop_fraction=0.5),
        inputs=(TensorSpec("images", "uint8", (batch, 8, 8, 3)),),
        outputs=(
            TensorSpec("probabilities", "float32", (batch, 3)),
            TensorSpec("scores", "float32", (batch, 2)),
            TensorSpec("labels", "int32", (batch, 2)),
        ),
        thresholds={"score": 0.4} if multi_label else {},
        postprocessing={"activation": "sigmoid" if multi_label else "softmax"},
    )


def classification_model(batch: int | str, *, multi_label: bool = False) -> onnx.ModelProto:
    """Probabilities (1 - brightness, brightness, 0)."""
    constants = {
        "slope": np.array([[-1, 1, 0]], np.float32),
        "start": np.array([[1, 0, 0]], np.float32),
        "white": np.array(255, np.float32),
        "pixel_axes": np.array([1, 2, 3], np.int64),
        "last_axes": np.array([2, 3], np.int64),
        "k": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["mean"]),
        helper.make_node("Div", ["mean", "white"], ["mean01"]),
        helper.make_node("Squeeze", ["mean01", "last_axes"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "slope"], ["change"]),
        helper.make_node("Add", ["change", "start"], ["probabilities"]),
        helper.make_node("TopK", ["probabilities", "k"], ["scores", "places"]),
        helper.make_node("Cast", ["places"], ["labels"], to=TensorProto.INT32),
    ]
    return _model(nodes, constants, classification_manifest(batch, multi_label=multi_label))


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], manifest: Manifest) -> onnx.ModelProto:
    types = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], list(spec.shape)) for spec in side]
        for side in (manifest.inputs, manifest.outputs)
    )
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"autotimm": manifest.to_json()})
    return model


@pytest.fixture
def detector(tmp_path: Path) -> ArtifactMaker:
    """Write a detection artifact; ``manifest`` gives fields of the manifest to change."""

    def make(batch: int | str = "batch", **manifest: object) -> Path:
        model = detection_model(batch)
        helper.set_model_props(model, {"autotimm": replace(detection_manifest(batch), **manifest).to_json()})
        path = tmp_path / f"detector_{batch}.onnx"
        onnx.save(model, path)
        return path

    return make


@pytest.fixture
def classifier(tmp_path: Path) -> ArtifactMaker:
    """Write a classification artifact."""

    def make(batch: int | str = "batch", *, multi_label: bool = False) -> Path:
        path = tmp_path / f"classifier_{batch}_{multi_label}.onnx"
        onnx.save(classification_model(batch, multi_label=multi_label), path)
        return path

    return make
