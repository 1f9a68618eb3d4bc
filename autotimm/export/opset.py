"""Portable graphs at an older opset than torch's exporter writes, since some engines read no newer one.

TensorRT 8.6 (JetPack 6.0) reads up to opset 17. It does not refuse opset 18 but misreads it: axes of reductions became
inputs there, and it reduces over all axes instead (https://github.com/NVIDIA/TensorRT/issues/3467). onnx's own version
converter has no way down for Split, and writes reductions that its checker refuses.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import defs, helper, numpy_helper

PORTABLE_OPSET = 17
_REDUCTIONS = {
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
}
"""Their axes are an attribute up to opset 17; those of ReduceSum have been an input since 13."""


def lower_opset(proto: onnx.ModelProto) -> list[str]:
    """Rewrite a graph of opset 18 as one of opset 17 that computes the same.

    Returns:
        What stands in the way, naming nodes; the graph is unchanged then. Nothing where it was rewritten.
    """
    constants = {value.name: value for value in proto.graph.initializer}
    nodes = list(_nodes(proto.graph))
    obstacles = [reason for node in nodes if (reason := _obstacle(node, constants))]
    if obstacles:
        return obstacles
    for node in nodes:
        if node.op_type in _REDUCTIONS:
            if len(node.input) > 1 and node.input[1]:
                axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
                node.attribute.append(helper.make_attribute("axes", axes))
            del node.input[1:]
            _drop(node, "noop_with_empty_axes")
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        elif node.op_type == "Resize":
            _drop(node, "antialias", "keep_aspect_ratio_policy")
    _drop_unused(proto.graph)
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = PORTABLE_OPSET
    return []


def opset_of(proto: onnx.ModelProto) -> int:
    """The opset of the standard operators."""
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _obstacle(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> str:
    """Why a node cannot be of the older opset; empty where it can."""
    if node.domain not in ("", "ai.onnx"):
        return ""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = [*node.input, "", "", "", ""]
    reduces = node.op_type in _REDUCTIONS
    found = {
        "the older opset has no such operator": not defs.has(node.op_type, PORTABLE_OPSET, ""),
        "its axes are computed": reduces and bool(inputs[1]) and inputs[1] not in constants,
        "it reduces over no axes": reduces and not inputs[1] and bool(given.get("noop_with_empty_axes")),
        "antialias": node.op_type == "Resize" and bool(given.get("antialias")),
        "axes": (node.op_type == "Resize" and bool(given.get("axes"))) or (node.op_type == "Pad" and bool(inputs[3])),
        "its reduction": node.op_type.startswith("Scatter") and given.get("reduction") in (b"max", b"min"),
    }
    return "; ".join(f"{node.name}: {reason}" for reason, there in found.items() if there)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of branches and loop bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _drop(node: onnx.NodeProto, *names: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Constants that were axes only."""
    used = {name for node in _nodes(graph) for name in node.input} | {output.name for output in graph.output}
    kept = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
