"""Ranges inside a graph against numpy on the very values."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autotimm.export.ranges import BINS, entropy_range, measure_ranges
from autotimm.runtime.errors import ExportError


def doubling() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["floats"], ["negative"]),
        helper.make_node("Log", ["floats"], ["logarithm"]),
        helper.make_node("Sum", ["negative", "logarithm"], ["sum"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 50, 40, 3])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 50, 40, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    """Mostly dark pixels, brighter from image to image, with a single one of 250."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 20 + 5 * index, (1, 50, 40, 3), dtype=np.uint8) for index in range(3)]
    images[1][0, 0, 0, 0] = 250
    return [{"images": image} for image in images]


def test_extremes(feeds: list[dict[str, np.ndarray]]) -> None:
    ranges = measure_ranges(doubling(), ["floats", "negative"], feeds, "minmax")
    assert ranges == {"floats": (0.0, 250.0), "negative": (-250.0, 0.0)}


def test_percentile(feeds: list[dict[str, np.ndarray]]) -> None:
    everything = np.concatenate([feed["images"].ravel() for feed in feeds])
    expected = np.percentile(everything, 99.99)
    ranges = measure_ranges(doubling(), ["floats", "negative"], feeds, "percentile")
    assert ranges["floats"] == pytest.approx((0.0, expected), abs=2 * 250 / BINS)
    assert ranges["negative"] == pytest.approx((-expected, 0.0), abs=2 * 250 / BINS)


def test_entropy_keeps_what_is_dense_and_leaves_outliers_out() -> None:
    random = np.random.default_rng(0)
    dense = np.abs(random.normal(size=200_000))
    values = np.concatenate([dense, [40.0, 45.0, 50.0]])
    counts = np.histogram(values, BINS, range=(0.0, 50.0))[0]
    low, high = entropy_range(counts, (-50.0, 50.0))
    assert low == -high
    assert np.quantile(dense, 0.99) < high < 12
    even = np.histogram(random.uniform(0, 50, 200_000), BINS, range=(0.0, 50.0))[0]
    assert entropy_range(even, (0.0, 50.0)) == pytest.approx((0.0, 50.0), rel=0.1)


def test_values_that_are_infinite_are_refused(feeds: list[dict[str, np.ndarray]]) -> None:
    with pytest.raises(ExportError, match="logarithm and 0 other values inside the network are infinite"):
        measure_ranges(doubling(), ["floats", "logarithm"], feeds, "minmax")
