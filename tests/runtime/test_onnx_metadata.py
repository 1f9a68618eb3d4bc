from pathlib import Path

import onnx
import pytest

from autotimm.runtime.errors import ArtifactError
from autotimm.runtime.onnx_metadata import read_metadata


def test_metadata_are_what_onnx_reads(detector_artifact: Path) -> None:
    expected = {entry.key: entry.value for entry in onnx.load(detector_artifact).metadata_props}
    assert set(expected) == {"autotimm"}
    assert read_metadata(detector_artifact) == expected


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


def test_a_model_that_was_cut_off(detector_artifact: Path, tmp_path: Path) -> None:
    whole = detector_artifact.read_bytes()
    for length in (len(whole) // 2, len(whole) - 5):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="cut off"):
            read_metadata(path)
