"""Which part of the graph a node belongs to: its name begins with the module of :class:`ExportGraph` that it is from.

``network.backbone.stem.conv/Conv_7`` is the eighth node of the graph, from the convolution of the stem. What no module
computes (thresholds, NMS, outputs) is the stage ``postprocess``. Engines name a node that they cannot build; this name
tells a person where it is from, and quantisation finds the network by it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

LAST_STAGE = "postprocess"
WRAPPED = "stages"
"""The module of :class:`ImageGraph` that holds the stages of a batch; they are named as without it."""
SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter writes the modules around an operation, outermost first, and the operation itself."""


def name_nodes_by_stage(proto: onnx.ModelProto) -> None:
    """Rename every node; to be called while the exporter's metadata are still there."""
    for index, node in enumerate(proto.graph.node):
        scopes = ast.literal_eval({entry.key: entry.value for entry in node.metadata_props}.get(SCOPES_KEY, "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        module = "" if module == WRAPPED or module.startswith("_") else module.removeprefix(f"{WRAPPED}.")
        node.name = f"{module or LAST_STAGE}/{node.op_type}_{index}"


def stage_of(node_name: str) -> str:
    """The stage in a node's name: ``normalize``, ``network``, ``select``, ``postprocess``, ..."""
    return node_name.partition("/")[0].partition(".")[0]


def layer_of(node_name: str) -> str:
    """The module in a node's name: ``network.backbone.stem.conv``."""
    return node_name.partition("/")[0]


IN_WORDS: Mapping[str, str] = {
    "resize": "resizing of the image",
    "normalize": "normalisation of the pixels",
    "network": "network",
    "select": "choice and decoding of the candidates",
    LAST_STAGE: "post-processing",
}
"""What a person calls a stage."""
