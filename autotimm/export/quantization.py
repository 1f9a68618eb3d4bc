"""int8 in an ONNX graph: pairs of QuantizeLinear and DequantizeLinear around the layers of the network.

A pair says that a value is held in eight bits; an engine that finds a layer between such pairs computes it in integers,
and any other engine gives the same answers in floating point. There are two flavours, since engines want different
things: what TensorRT builds, and what is fastest on ONNX Runtime's kernels for CPUs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from autotimm.export.integers import Floats, Range, bias_in_int32, scale_and_zero_point, weight_in_int8
from autotimm.export.stages import layer_of, stage_of
from autotimm.runtime.manifest import Target

NETWORK = "network"

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVING = frozenset({"MaxPool", "Resize", "Reshape", "Transpose", "Flatten", "Slice", "Squeeze", "Unsqueeze"})
"""These move values without changing them, so that their output has the scale of their input."""
_CLIPPING = frozenset({"Relu", "Clip"})
"""What the rounding to eight bits does by itself where it follows."""

SILU_FLOOR = -8.0
"""SiLU, x sigmoid(x), of all that lies below is between -0.003 and 0. Inputs reach down to -30 and further, and would
take most of the 256 steps from the others."""


@dataclass(frozen=True)
class Flavour:
    """What an engine wants to find in a quantised graph."""

    name: str
    operators: frozenset[str]
    """Types of the nodes that are quantised."""
    outputs: bool
    """Every value between two layers is held in eight bits, so that whole chains stay in integers; it is uint8 with a
    zero point, and biases are 32-bit integers. Otherwise only the inputs of layers are, as int8 without zero point."""


FLAVOURS: Mapping[Target, Flavour] = {
    "portable": Flavour("int8 symmetric, inputs and weights of layers", _WEIGHTED, outputs=False),
    "onnxruntime": Flavour(
        "uint8 activations, int8 weights, whole chains",
        _WEIGHTED | _MOVING | {"Add", "Mul", "Concat", "Sigmoid", "GlobalAveragePool", "AveragePool"},
        outputs=True,
    ),
}


class QuantizableGraph:
    """An fp32 graph and what of it can be quantised.

    Args:
        proto: with nodes named by stage (:mod:`autotimm.export.stages`); it is not changed.
        target: decides the flavour.
    """

    def __init__(self, proto: onnx.ModelProto, target: Target) -> None:
        self.proto = proto
        self.flavour = FLAVOURS[target]
        self.initializers = {value.name: value for value in proto.graph.initializer}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        floats = _float_values(proto)
        self.owner: dict[str, str] = {}
        """Of each node that can be quantised, by its name: the layer with which it is, or is not."""
        self._assign_owners(floats)
        # Answers want more than eight bits: boxes are told to a part of a pixel, and near scores must stay apart.
        last = answering_nodes(proto)
        self.answering = tuple(sorted({self.owner[name] for name in last & set(self.owner)}))
        """Layers that could be quantised, but give the answers of the network."""
        self.owner = {name: layer for name, layer in self.owner.items() if name not in last}
        self.layers: tuple[str, ...] = tuple(dict.fromkeys(self.owner.values()))
        """What can be quantised or not, each as a whole, in the order of the graph."""

    def _assign_owners(self, floats: Collection[str]) -> None:
        """A layer with weights owns what only it leads to (its activation function); what joins layers is its own."""
        owner_of: dict[str, str] = {}  # of values
        for node in self.proto.graph.node:
            if stage_of(node.name) != NETWORK:
                continue
            computed = [name for name in node.input if name and name not in self.initializers]
            owners = {owner_of.get(name, "") for name in computed}
            own = layer_of(node.name)
            if node.op_type not in _WEIGHTED and len(owners) == 1 and "" not in owners:
                (own,) = owners
            owner_of.update(dict.fromkeys(node.output, own))
            if node.op_type in self.flavour.operators and self._is_quantizable(node, floats):
                self.owner[node.name] = own

    def _is_quantizable(self, node: onnx.NodeProto, floats: Collection[str]) -> bool:
        if not self.flavour.outputs and not self.has_weight(node):
            return False  # the product of two activations: an attention
        activations = self.activations(node)
        constant = any(name in self.initializers for name in activations)
        return not constant and all(name in floats for name in (*activations, node.output[0]))

    def has_weight(self, node: onnx.NodeProto) -> bool:
        """Whether it is a layer whose second input is known now."""
        return node.op_type in _WEIGHTED and node.input[1] in self.initializers

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that are held in eight bits where the node is quantised, apart from weights."""
        return list(node.input[:1]) if self.has_weight(node) or node.op_type in _MOVING else list(node.input)

    def held_output(self, node: onnx.NodeProto) -> str:
        """The output of a quantised node that is held in eight bits: that of a ReLU where only one follows."""
        following = self.consumers.get(node.output[0], [])
        if node.op_type not in _MOVING and len(following) == 1 and following[0].op_type in _CLIPPING:
            return str(following[0].output[0])
        return str(node.output[0])

    def values_to_calibrate(self) -> list[str]:
        """Names of the values whose range must be known."""
        names: dict[str, None] = {}
        for node in self.proto.graph.node:
            if node.name in self.owner:
                names.update(dict.fromkeys(self.activations(node)))
                if self.flavour.outputs and node.op_type not in _MOVING:
                    names[self.held_output(node)] = None
        return list(names)

    def worth_telling(self, value: str, seen: Range) -> Range:
        """The part of a range that the value's readers tell apart: of SiLU's input, what is above the floor."""
        readers = {node.op_type for node in self.consumers.get(value, [])}
        return (max(seen[0], SILU_FLOOR), max(seen[1], SILU_FLOOR)) if readers == {"Sigmoid", "Mul"} else seen

    def quantized(self, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> onnx.ModelProto:
        """The graph with Q/DQ pairs.

        Args:
            ranges: of :meth:`values_to_calibrate`.
            keep: layers that stay in floating point.
        """
        chosen = {node for node, layer in self.owner.items() if layer not in keep}
        return _Insertion(self, ranges, chosen).run()


class _Insertion:
    """One pass over the graph in its order, in which nodes are copied and pairs are put between them."""

    def __init__(self, graph: QuantizableGraph, ranges: Mapping[str, Range], chosen: Collection[str]) -> None:
        self.graph, self.ranges, self.chosen = graph, ranges, chosen
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.scales: dict[str, tuple[float, int]] = {}
        """Scale and zero point of values, and of those that are moved from them."""
        self.held: dict[str, str] = {}
        """From a value to what stands for it behind its pair."""
        self.everywhere: set[str] = set()
        """Held values that are read behind their pair by nodes in floating point too: a layer is fused with the pair
        behind it only where nobody else reads what lies between."""
        self.weight_scales: dict[str, Floats] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.graph
        for node in graph.proto.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            if node.name in self.chosen:
                self._quantize_inputs(copy)
            else:
                for place, name in enumerate(node.input):
                    if name in self.everywhere:
                        copy.input[place] = self.held[name]
            self.nodes.append(copy)
            if node.name in self.chosen and graph.flavour.outputs:
                output = graph.held_output(node)
                if node.op_type in _MOVING:
                    self.scales[output] = self.scales[node.input[0]]
                if output == node.output[0]:
                    self._hold(output, layer_of(node.name))
                self.everywhere.add(output)
            elif node.op_type in _CLIPPING and node.output[0] in self.everywhere:
                self._hold(node.output[0], layer_of(node.name))
        return self._assembled()

    def _quantize_inputs(self, node: onnx.NodeProto) -> None:
        layer = layer_of(node.name)
        activations = set(self.graph.activations(node))
        for place, name in enumerate(list(node.input)):
            if name in activations:
                node.input[place] = self._hold(name, layer)
        if not self.graph.has_weight(node):
            return
        (activation,) = activations
        bias = node.input[2] if len(node.input) > 2 else ""
        if not self.graph.flavour.outputs or bias not in self.graph.initializers:
            node.input[1], _ = self._hold_weight(node.input[1], _output_axis(node), layer)
            return
        values, scale = self._array(bias), self._scale_of(activation)[0]
        node.input[1], scales = self._hold_weight(node.input[1], _output_axis(node), layer, values, scale)
        node.input[2] = self._hold_bias(values, scales * np.float32(scale), node)

    def _scale_of(self, value: str) -> tuple[float, int]:
        if value not in self.scales:
            symmetric = not self.graph.flavour.outputs
            told = self.graph.worth_telling(value, self.ranges[value])
            self.scales[value] = scale_and_zero_point(told, symmetric=symmetric)
        return self.scales[value]

    def _hold(self, value: str, layer: str) -> str:
        """Put a pair behind a value, once; gives the name of what comes out of it."""
        if value not in self.held:
            scale, zero = self._scale_of(value)
            kind = np.uint8 if self.graph.flavour.outputs else np.int8
            parameters = [
                self._constant(f"{value}_scale", np.asarray(scale, np.float32)),
                self._constant(f"{value}_zero", np.asarray(zero, kind)),
            ]
            self._add("QuantizeLinear", [value, *parameters], f"{value}_int8", layer)
            self._add("DequantizeLinear", [f"{value}_int8", *parameters], f"{value}_held", layer)
            self.held[value] = f"{value}_held"
        return self.held[value]

    def _hold_weight(
        self, name: str, axis: int, layer: str, bias: Floats | None = None, input_scale: float = 1.0
    ) -> tuple[str, Floats]:
        """Put a weight into int8, once; gives the name of what comes out of its pair, and its scales."""
        held = f"{name}_held_{axis}"
        if held not in self.weight_scales:
            rounded, scales = weight_in_int8(self._array(name), axis, bias, input_scale)
            inputs = [
                self._constant(f"{name}_int8_{axis}", rounded),
                self._constant(f"{name}_scale_{axis}", scales),
                self._constant(f"{name}_zero_{axis}", np.zeros(scales.shape, np.int8)),
            ]
            self._add("DequantizeLinear", inputs, held, layer, axis=axis)
            self.weight_scales[held] = scales
        return held, self.weight_scales[held]

    def _hold_bias(self, bias: Floats, scales: Floats, node: onnx.NodeProto) -> str:
        rounded, scales = bias_in_int32(bias, scales)
        held = f"{node.output[0]}_bias"
        inputs = [
            self._constant(f"{held}_int32", rounded),
            self._constant(f"{held}_scale", scales),
            self._constant(f"{held}_zero", np.zeros(scales.shape, np.int32)),
        ]
        self._add("DequantizeLinear", inputs, held, layer_of(node.name), axis=0)
        return held

    def _array(self, name: str) -> Floats:
        return numpy_helper.to_array(self.graph.initializers[name]).astype(np.float32)

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _add(self, operator: str, inputs: list[str], output: str, layer: str, axis: int | None = None) -> None:
        node = helper.make_node(operator, inputs, [output], name=f"{layer}/{operator}_{output}")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def _assembled(self) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.graph.proto)
        del proto.graph.node[:], proto.graph.initializer[:]
        proto.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | {value.name for value in proto.graph.output}
        kept = [value for value in self.graph.proto.graph.initializer if value.name in used]
        proto.graph.initializer.extend([*kept, *self.constants.values()])
        return proto


def answering_nodes(proto: onnx.ModelProto) -> set[str]:
    """Names of the nodes of the network after which no other layer comes: they give its answers."""
    leading: set[str] = set()  # values that some layer is computed from
    last: set[str] = set()
    for node in reversed(proto.graph.node):
        if stage_of(node.name) != NETWORK:
            continue
        leads = any(name in leading for name in node.output)
        if not leads:
            last.add(node.name)
        if node.op_type in _WEIGHTED or leads:
            leading.update(node.input)
    return last


def _output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that runs over its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1  # ConvTranspose [in, out, ...] and MatMul [in, out]


def _float_values(proto: onnx.ModelProto) -> set[str]:
    """Names of the float32 values of a graph."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    return {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
