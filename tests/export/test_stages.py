from pathlib import Path

import onnx

from autotimm.export.stages import layer_of, stage_of


def test_a_node_says_where_it_is_from(detector_artifact: Path) -> None:
    nodes = onnx.load(detector_artifact).graph.node
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    assert {stage_of(node.name) for node in nodes if node.op_type == "Conv"} == {"network"}
    assert {stage_of(node.name) for node in nodes if node.op_type == "NonMaxSuppression"} == {"postprocess"}
    assert stage_of(nodes[0].name) == "normalize"
    assert "network.backbone.backbone.stem.conv.bn" in {layer_of(node.name) for node in nodes}  # its convolution
