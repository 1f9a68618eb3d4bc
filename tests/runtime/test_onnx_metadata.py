from pathlib import Path

import numpy as np
import onnx
import pytest

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.onnx_metadata import read_metadata


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Weights of 400 kB, then metadata."""
    weights = onnx.numpy_helper.from_array(np.ones(100_000, np.float32), "weights")
    output = onnx.helper.make_tensor_value_info("weights", onnx.TensorProto.FLOAT, [100_000])
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "weights only", [], [output], [weights]))
    onnx.helper.set_model_props(proto, {"autotimm": '{"größe": 3}' * 50, "author": "someone", "empty": ""})
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_metadata_are_what_onnx_reads(model: Path) -> None:
    expected = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert len(expected) == 3
    assert read_metadata(model) == expected


def test_a_model_without_metadata(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "nothing", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    assert read_metadata(tmp_path / "model.onnx") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not a whole ONNX model"),
        (b"not a model at all", "not a whole ONNX model"),
    ],
)
def test_what_is_no_model(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_metadata(path)


def test_a_model_that_was_cut_off(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    for length in (len(whole) // 2, len(whole) - 5):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="cut off"):
            read_metadata(path)
