"""Ranges of the values inside a graph, over some images: what the scales of int8 follow from.

Memory stays bounded whatever the number of images: extremes are computed inside the graph, and values are counted into
histograms image by image, a part of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from autotimm.export.inner_sessions import open_session, with_outputs
from autotimm.runtime.errors import ExportError

Method = Literal["percentile", "entropy", "minmax"]
METHODS: tuple[Method, ...] = get_args(Method)
PERCENTILE = 99.99
"""Share of the values, in percent, that lies inside the range of ``percentile``."""
BINS = 2048
"""Of a histogram of absolute values, as TensorRT's calibrator has them."""
_LEVELS = 128
_SAMPLE = 1 << 14
"""Values counted of one tensor and image: all of a small one, evenly spread ones of a large one."""
_TOGETHER = 128 << 20
"""Bytes of values that are fetched from one run."""

_AT_FIRST = 16
"""Values fetched together while their sizes are not known."""

Feed = dict[str, NDArray[np.uint8]]


def measure_ranges(
    proto: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feed], method: Method
) -> dict[str, tuple[float, float]]:
    """The range of each value.

    Args:
        proto: the fp32 graph.
        names: of float32 values inside it.
        feeds: inputs, an image or batch each; they are run through once, or twice where ``method`` counts values, so
            this must not be an iterator.
        method: ``minmax`` is the smallest and the largest value that was seen. ``percentile`` leaves the rarest out:
            :data:`PERCENTILE` of the values are inside. ``entropy`` clips where the distribution loses least
            information, by TensorRT's criterion (Migacz, "8-bit inference with TensorRT", GTC 2017).

    Raises:
        ExportError: a value is infinite or not a number.
    """
    extremes = _extremes(proto, names, feeds)
    broken = [name for name, values in extremes.items() if not np.isfinite(values).all()]
    if broken:
        raise ExportError(
            f"calibration: {broken[0]} and {len(broken) - 1} other values inside the network are infinite or not a "
            "number (NaN) on these images, in fp32 already; the model cannot be quantised"
        )
    if method == "minmax":
        return extremes
    counts = _histograms(proto, extremes, feeds)
    choose = percentile_range if method == "percentile" else entropy_range
    return {name: choose(counts[name], extremes[name]) for name in names}


def percentile_range(counts: NDArray[np.int64], extremes: tuple[float, float]) -> tuple[float, float]:
    """The range that holds :data:`PERCENTILE` of the values, cut at the same magnitude on both sides.

    Args:
        counts: of absolute values, in equal bins from 0 to the largest.
        extremes: smallest and largest value.
    """
    share = np.cumsum(counts) / max(1, counts.sum())
    last = int(np.searchsorted(share, PERCENTILE / 100))
    return _clipped(extremes, (min(last, len(counts) - 1) + 1) / len(counts))


def entropy_range(counts: NDArray[np.int64], extremes: tuple[float, float]) -> tuple[float, float]:
    """The range that changes the distribution least, by Kullback-Leibler divergence, when it is told in 128 levels.

    Args:
        counts: of absolute values, in equal bins from 0 to the largest.
        extremes: smallest and largest value.
    """
    best, least = len(counts), np.inf
    # The first bin is left out: zeros, of which a ReLU makes many, are exact in any scale.
    values = counts.astype(np.float64)
    values[0] = 0.0
    for kept in range(_LEVELS, len(counts) + 1, _LEVELS // 8):
        reference = values[:kept].copy()
        reference[-1] += values[kept:].sum()
        divergence = _divergence(reference, values[:kept])
        if divergence < least:
            best, least = kept, divergence
    return _clipped(extremes, best / len(counts))


def _divergence(reference: NDArray[np.float64], inside: NDArray[np.float64]) -> float:
    """Of a clipped distribution from itself in as many levels as eight bits have on one side of zero."""
    edges = np.linspace(0, len(inside), _LEVELS + 1).astype(np.intp)
    sums = np.add.reduceat(inside, edges[:-1])
    filled = np.add.reduceat((inside > 0).astype(np.float64), edges[:-1])
    level = np.repeat(sums / np.maximum(filled, 1), np.diff(edges))
    quantized = np.where(inside > 0, level, 0.0)
    if not reference.sum() or not quantized.sum():
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))


def _clipped(extremes: tuple[float, float], share: float) -> tuple[float, float]:
    limit = share * max(abs(extremes[0]), abs(extremes[1]))
    return max(extremes[0], -limit), min(extremes[1], limit)


def _extremes(proto: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feed]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value over all feeds, by ReduceMin and ReduceMax in the graph."""
    augmented = onnx.ModelProto()
    augmented.CopyFrom(proto)
    outputs = []
    for name in names:
        for operator in ("ReduceMin", "ReduceMax"):
            outputs.append(f"{name}_{operator}")
            augmented.graph.node.append(helper.make_node(operator, [name], [outputs[-1]], keepdims=0))
    augmented.graph.output.extend(helper.make_tensor_value_info(name, 1, []) for name in outputs)
    session = open_session(augmented)
    low = np.full(len(names), np.inf)
    high = np.full(len(names), -np.inf)
    for feed in feeds:
        values = np.array(session.run(outputs, feed), np.float64).reshape(-1, 2)
        low, high = np.minimum(low, values[:, 0]), np.maximum(high, values[:, 1])  # NaN stays
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _histograms(
    proto: onnx.ModelProto, extremes: Mapping[str, tuple[float, float]], feeds: Iterable[Feed]
) -> dict[str, NDArray[np.int64]]:
    """Counts of absolute values in :data:`BINS` bins from 0 to the largest."""
    session = open_session(with_outputs(proto, list(extremes)))
    counts = {name: np.zeros(BINS, np.int64) for name in extremes}
    parts = [list(extremes)]
    for index, feed in enumerate(feeds):
        if index == 0:
            parts = list(_in_parts(session, list(extremes), feed))
        for part in parts:
            for name, value in zip(part, session.run(part, feed), strict=True):
                flat = np.abs(value.ravel()[:: -(-value.size // _SAMPLE)])
                largest = max(map(abs, extremes[name])) or 1.0
                counts[name] += np.histogram(flat, BINS, range=(0.0, largest))[0]
    return counts


def _in_parts(session: Any, names: Sequence[str], feed: Feed) -> Iterator[list[str]]:
    """Names of values that are fetched together; sizes are found by fetching a few at a time."""
    part: list[str] = []
    size = 0
    for start in range(0, len(names), _AT_FIRST):
        few = names[start : start + _AT_FIRST]
        for name, value in zip(few, session.run(few, feed), strict=True):
            if part and size + value.nbytes > _TOGETHER:
                yield part
                part, size = [], 0
            part.append(name)
            size += value.nbytes
    yield part
