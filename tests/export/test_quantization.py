"""int8 graphs against arithmetic done by hand, and against what engines make of them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autotimm.export.integers import scale_and_zero_point
from autotimm.export.quantization import QuantizableGraph, answering_nodes
from autotimm.export.stages import layer_of, stage_of

RANGES = {"pixels": (-1.0, 3.0), "first": (-2.0, 6.0), "positive": (0.0, 6.0), "second": (-9.0, 9.0)}


def two_layers() -> onnx.ModelProto:
    """Two convolutions with a ReLU between them, in the network; scaling before it, and a sum after it."""
    random = np.random.default_rng(0)
    constants = {
        "w1": random.normal(size=(4, 2, 1, 1)),
        "b1": random.normal(size=4),
        "w2": random.normal(size=(3, 4, 3, 3)),
        "half": np.array([0.5]),
    }
    nodes = [
        helper.make_node("Mul", ["images", "half"], ["pixels"], "normalize/Mul_0"),
        helper.make_node("Conv", ["pixels", "w1", "b1"], ["first"], "network.a/Conv_1"),
        helper.make_node("Relu", ["first"], ["positive"], "network.act/Relu_2"),
        helper.make_node("Conv", ["positive", "w2"], ["second"], "network.b/Conv_3"),
        helper.make_node("ReduceSum", ["second"], ["total"], "postprocess/ReduceSum_4", keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 2, 6, 6])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [1, 1, 1, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(proto: onnx.ModelProto, name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """A value inside the graph, by ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (value,) = session.run([name], {"images": images})
    return value


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-3, 8, (1, 2, 6, 6)).astype(np.float32)


def test_one_layer_is_integer_arithmetic(images: NDArray[np.float32]) -> None:
    """By hand: the input in steps of 3/127, the weights of each output channel in its own, and a sum of integers."""
    proto = QuantizableGraph(two_layers(), "portable").quantized(RANGES)
    weight, bias = (numpy_helper.to_array(value) for value in two_layers().graph.initializer[:2])
    step = 3.0 / 127
    pixels = np.clip(np.rint(images[0] * 0.5 / step), -128, 127).astype(np.int64)
    expected = np.empty((4, 6, 6))
    for channel in range(4):
        largest = np.abs(weight[channel]).max() / 127
        integers = np.rint(weight[channel, :, 0, 0] / largest).astype(np.int64)
        expected[channel] = (integers[:, None, None] * pixels).sum(axis=0) * largest * step + bias[channel]
    np.testing.assert_allclose(run(proto, "first", images)[0], expected, atol=1e-5)


def test_the_portable_flavour_is_what_tensorrt_takes() -> None:
    proto = QuantizableGraph(two_layers(), "portable").quantized(RANGES)
    onnx.checker.check_model(proto, full_check=True)
    constants = {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}
    pairs = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 3  # a pair for the input of the first layer, its weight; the second one gives the answers
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    assert constants["b1"].dtype == np.float32
    assert {value.dtype.name for name, value in constants.items() if name.startswith("w1")} == {"int8", "float32"}
    assert constants["w1_scale_0"].shape == (4,)


def test_nodes_say_which_layer_they_are_of() -> None:
    proto = QuantizableGraph(two_layers(), "onnxruntime").quantized(RANGES)
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    added = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {stage_of(node.name) for node in added} == {"network"}
    assert {layer_of(node.name) for node in added} == {"network.a", "network.act"}


def test_onnx_runtime_computes_a_chain_in_integers(images: NDArray[np.float32], tmp_path: Path) -> None:
    """Its optimiser finds the layer with the ReLU behind it; the layer that gives the answers stays as it is."""
    images = np.clip(images, -2, 6)
    proto = QuantizableGraph(two_layers(), "onnxruntime").quantized({**RANGES, "positive": (0.0, 12.0)})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert optimized.count("QLinearConv") == 1
    assert "Relu" not in optimized
    (total,) = session.run(None, {"images": images})
    np.testing.assert_allclose(total, run(two_layers(), "total", images), rtol=0.03)


@pytest.mark.parametrize("left", [0.0, 1e-20])
def test_a_channel_without_weight_gives_its_bias(images: NDArray[np.float32], left: float) -> None:
    """As depthwise layers have them after training: int32 in steps of nearly nothing would clip the bias."""
    proto = two_layers()
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[:2] = left
    bias = np.array([0.37, -0.8, 1.0, 0.0], np.float32)
    for place, value in enumerate((weight, bias)):
        name = proto.graph.initializer[place].name
        proto.graph.initializer[place].CopyFrom(numpy_helper.from_array(value, name))
    for target in ("onnxruntime", "portable"):
        first = run(QuantizableGraph(proto, target).quantized(RANGES), "first", images)  # type: ignore[arg-type]
        np.testing.assert_allclose(first[0, 0], 0.37, rtol=1e-6)
        np.testing.assert_allclose(first[0, 1], -0.8, rtol=1e-6)


def test_a_layer_that_is_kept_is_untouched(images: NDArray[np.float32]) -> None:
    graph = QuantizableGraph(two_layers(), "portable")
    assert graph.layers == ("network.a",)
    assert graph.answering == ("network.b",)
    same = graph.quantized(RANGES, keep=["network.a"])
    np.testing.assert_array_equal(run(same, "total", images), run(two_layers(), "total", images))


def test_only_what_no_layer_follows_gives_the_answers() -> None:
    assert answering_nodes(two_layers()) == {"network.b/Conv_3"}


@pytest.mark.parametrize(
    ("values", "symmetric", "scale", "zero"),
    [
        ((-1.0, 3.0), True, 3 / 127, 0),
        ((-1.0, 3.0), False, 4 / 255, 64),
        ((0.0, 255.0), False, 1.0, 0),  # pixels are exact
        ((2.0, 5.1), False, 0.02, 0),  # 0 is always in it: padding must be exact
        ((-5.1, -2.0), False, 0.02, 255),
        ((0.0, 0.0), True, 1.0, 0),
    ],
)
def test_scales(values: tuple[float, float], symmetric: bool, scale: float, zero: int) -> None:
    assert scale_and_zero_point(values, symmetric=symmetric) == pytest.approx((scale, zero))
