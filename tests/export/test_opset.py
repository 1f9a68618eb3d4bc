from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from autotimm.export.opset import lower_opset, opset_of


def model(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """From ``x`` f32 ``[2, 4, 6, 6]`` to ``y``, at opset 18."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answer(proto: onnx.ModelProto) -> Any:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    return session.run(None, {"x": images})[0]


CONTEXT = onnx.checker.C.CheckerContext()
CONTEXT.opset_imports, CONTEXT.ir_version = {"": 17}, 9
axes = np.array([1, 3])
half = np.array([1, 1, 0.5, 0.5], np.float32)
pads = np.array([0, 0, 1, 2, 0, 0, 3, 1])


@pytest.mark.parametrize(
    "proto",
    [
        *(
            model(helper.make_node(f"Reduce{kind}", ["x", "axes"], ["y"], keepdims=keep), axes=axes)
            for kind, keep in (("Max", 0), ("Mean", 1), ("L2", 0), ("Min", 1))
        ),
        model(helper.make_node("ReduceMax", ["x"], ["y"])),
        model(helper.make_node("ReduceSum", ["x", "axes"], ["y"]), axes=axes),  # has had axes as input for longer
        model(
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            helper.make_node("Sub", ["a", "b"], ["y"]),
        ),
        model(helper.make_node("Resize", ["x", "", "half"], ["y"], mode="linear", antialias=0), half=half),
        model(helper.make_node("Pad", ["x", "pads"], ["y"]), pads=pads),
    ],
    ids=lambda proto: proto.graph.node[0].op_type,
)
def test_a_lowered_graph_computes_the_same(proto: onnx.ModelProto) -> None:
    before = answer(proto)
    assert lower_opset(proto) == []
    assert opset_of(proto) == 17
    for node in proto.graph.node:
        onnx.checker.check_node(node, CONTEXT)
    np.testing.assert_array_equal(answer(proto), before)
    used = {name for node in proto.graph.node for name in node.input}
    assert {value.name for value in proto.graph.initializer} <= used


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (
            model(helper.make_node("Mish", ["x"], ["y"], name="a/Mish_0")),
            "a/Mish_0: the older opset has no such operator",
        ),
        (
            model(
                helper.make_node("Resize", ["x", "", "half"], ["y"], name="r", mode="linear", antialias=1), half=half
            ),
            "r: antialias",
        ),
        (
            model(
                helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
                helper.make_node("ReduceMax", ["x", "s"], ["y"], name="m"),
            ),
            "m: its axes are computed",
        ),
    ],
    ids=["operator", "antialias", "computed"],
)
def test_what_cannot_be_lowered_stays_as_it_is(proto: onnx.ModelProto, reason: str) -> None:
    before = proto.SerializeToString()
    assert lower_opset(proto) == [reason]
    assert proto.SerializeToString() == before


def test_axes_in_branches_are_found() -> None:
    branch = helper.make_graph(
        [helper.make_node("ReduceMax", ["x", "axes"], ["b"])],
        "branch",
        [],
        [onnx.ValueInfoProto(name="b")],
    )
    proto = model(
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch), yes=np.array(True), axes=axes
    )
    before = answer(proto)
    assert lower_opset(proto) == []
    np.testing.assert_array_equal(answer(proto), before)
