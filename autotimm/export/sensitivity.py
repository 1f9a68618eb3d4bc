"""Which layers int8 hurts: what each changes in the answers of the network when it alone is quantised.

The errors of single layers nearly add up (as independent noise does), so that the worst few of them are what matters;
they stay in floating point until the answers of the whole are near enough to those of fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from autotimm.export.inner_sessions import open_session, with_outputs
from autotimm.export.integers import Range
from autotimm.export.quantization import NETWORK, QuantizableGraph
from autotimm.export.ranges import Feed
from autotimm.export.stages import stage_of

ERROR_LIMIT = 0.15
"""Relative error of the answers that is let pass. It bounds what int8 does to the answers, not what AP loses, for which
``--max-drop`` keeps more layers; YOLOX-nano loses a point at it (docs/precision.md)."""
MOST_KEPT = 0.3
"""Share of the layers that stays in floating point at most, where no limit of the loss asks for more: past it, int8 is
hardly worth having."""
IMAGES = 4
"""The ranking of layers hardly changes with more, and each layer costs a run on every one."""


class AnswerError:
    """Measures how far the answers of quantised networks are from those in fp32, on the same few images."""

    def __init__(self, proto: onnx.ModelProto, feeds: Sequence[Feed]) -> None:
        self.names = answers(proto)
        self.feeds = feeds
        self.expected = self._run(proto)

    def __call__(self, proto: onnx.ModelProto) -> float:
        """Of the answer that is worst off: relative root mean square."""
        wrong = np.zeros(len(self.names))
        spread = np.zeros(len(self.names))
        for expected, found in zip(self.expected, self._run(proto), strict=True):
            for place, (one, other) in enumerate(zip(expected, found, strict=True)):
                wrong[place] += np.mean(np.square(one - other, dtype=np.float64))
                spread[place] += np.var(one, dtype=np.float64)
        return float(np.sqrt(wrong / np.maximum(spread, 1e-12)).max())

    def _run(self, proto: onnx.ModelProto) -> list[list[NDArray[np.float32]]]:
        session = open_session(with_outputs(proto, self.names))
        return [session.run(self.names, feed) for feed in self.feeds]


def answers(proto: onnx.ModelProto) -> list[str]:
    """Values that the network gives to the stages after it.

    What it gives when it is called again there (the mask head, on the objects that were found) is left out: with other
    objects or in another order, it cannot be compared value by value.
    """
    of_network: dict[str, None] = {}
    later: set[str] = set()  # values that come after the network
    names: dict[str, None] = {}
    for node in proto.graph.node:
        before = [name for name in node.input if name in of_network]
        if stage_of(node.name) == NETWORK:
            if later.isdisjoint(node.input):
                of_network.update(dict.fromkeys(node.output))
            else:
                later.update(node.output)
        elif before or not later.isdisjoint(node.input):
            names.update(dict.fromkeys(before))
            later.update(node.output)
    return list(names)


def rank_layers(graph: QuantizableGraph, ranges: Mapping[str, Range], error: AnswerError) -> dict[str, float]:
    """The error with each layer alone quantised, the worst first."""
    layers = set(graph.layers)
    alone = {layer: error(graph.quantized(ranges, keep=layers - {layer})) for layer in graph.layers}
    return dict(sorted(alone.items(), key=lambda pair: -pair[1]))


def choose_kept(
    graph: QuantizableGraph,
    ranges: Mapping[str, Range],
    error: AnswerError,
    alone: Mapping[str, float],
    at_least: int = 0,
) -> tuple[tuple[str, ...], float]:
    """The worst layers, as few as bring the answers near enough, and the error that is left with them kept.

    Args:
        graph: the fp32 graph.
        ranges: of its values.
        error: what measures it.
        alone: of every layer, as :func:`rank_layers` gives it.
        at_least: so many are kept anyhow, even past :data:`MOST_KEPT`.
    """
    ranked = list(alone)
    low = min(max(1, at_least), len(ranked))
    high = max(low, int(MOST_KEPT * len(ranked)))
    while low < high:
        middle = (low + high) // 2
        if error(graph.quantized(ranges, keep=ranked[:middle])) <= ERROR_LIMIT:
            high = middle
        else:
            low = middle + 1
    kept = tuple(ranked[:low])
    return kept, error(graph.quantized(ranges, keep=kept))
