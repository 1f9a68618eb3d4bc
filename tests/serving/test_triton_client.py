"""NVIDIA's own HTTP client against this server; where tritonclient is not installed, test_protocol.py stands alone.

pip install 'tritonclient[http]'
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Running, serving, write_brightness

triton: Any = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
InferenceServerException: Any = pytest.importorskip("tritonclient.utils").InferenceServerException

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of its packages
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WHITE = np.full((2, 8, 8, 3), 255, np.uint8)
WHITE[0] = 51
ANSWER = np.array([[0.8, 0.2, 0], [0, 1, 0]], np.float32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    models = {
        "bright": write_brightness(folder / "b.onnx"),
        "versions:1": write_brightness(folder / "1.onnx", slope=0.5),
        "versions:2": write_brightness(folder / "2.onnx"),
    }
    with serving(models, workers=2, max_batch=4) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{running.port}", concurrency=4)
    yield client
    client.close()


def tensor(values: np.ndarray = WHITE, *, binary: bool = True) -> list[Any]:
    wanted = triton.InferInput("images", list(values.shape), "UINT8")
    wanted.set_data_from_numpy(values, binary_data=binary)
    return [wanted]


def test_health(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("bright")
    assert client.is_model_ready("versions", "1")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready("versions", "3")


def test_descriptions(client: Any) -> None:
    assert client.get_server_metadata()["name"] == "autotimm"
    metadata = client.get_model_metadata("versions")
    assert metadata["versions"] == ["1", "2"]
    config = client.get_model_config("bright")
    assert [entry["name"] for entry in config["output"]] == [entry["name"] for entry in metadata["outputs"]]
    assert config["max_batch_size"] == 4
    index = client.get_model_repository_index()
    assert {(entry["name"], entry["version"]) for entry in index} == {
        ("bright", "1"),
        ("versions", "1"),
        ("versions", "2"),
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_infer(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    """``None``: no output is named, and the client asks for all of them, binary."""
    names = ("probabilities", "labels")
    outputs = None if binary_out is None else [triton.InferRequestedOutput(n, binary_data=binary_out) for n in names]
    result = client.infer("bright", tensor(binary=binary_in), outputs=outputs, request_id="7")
    np.testing.assert_allclose(result.as_numpy("probabilities"), ANSWER, atol=1e-6)
    np.testing.assert_array_equal(result.as_numpy("labels"), [[0, 1], [1, 0]])
    assert (result.as_numpy("scores") is None) == (outputs is not None)
    assert result.get_response()["id"] == "7"
    assert result.get_response()["model_name"] == "bright"


@pytest.mark.parametrize("request_packing", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_packing", [None, "gzip", "deflate"])
def test_compression(client: Any, request_packing: str | None, response_packing: str | None) -> None:
    many = np.repeat(WHITE, 20, axis=0)
    result = client.infer(
        "bright",
        tensor(many),
        request_compression_algorithm=request_packing,
        response_compression_algorithm=response_packing,
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), np.repeat(ANSWER, 20, axis=0), atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client: Any, binary: bool) -> None:
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    found = client.infer("bright", tensor(), outputs=[wanted]).as_numpy("probabilities")
    texts = [[text.decode() if isinstance(text, bytes) else text for text in row] for row in found.tolist()]
    assert texts == [["0.800000:0:dark", "0.200000:1:light"], ["1.000000:1:light", "0.000000:0:dark"]]


def test_versions(client: Any) -> None:
    light = {
        v: client.infer("versions", tensor(), model_version=v).as_numpy("probabilities")[1, 1] for v in ("1", "2", "")
    }
    assert light == {"1": 0.5, "2": 1, "": 1}


def test_many_at_a_time(client: Any) -> None:
    batches = [np.full((1, 8, 8, 3), level, np.uint8) for level in range(0, 256, 8)]
    waiting = [client.async_infer("bright", tensor(batch)) for batch in batches]
    found = [request.get_result().as_numpy("probabilities")[0, 1] for request in waiting]
    np.testing.assert_allclose(found, np.arange(0, 256, 8) / 255, atol=1e-6)


def test_statistics(client: Any) -> None:
    before = client.get_inference_statistics("bright")["model_stats"][0]
    client.infer("bright", tensor())
    after = client.get_inference_statistics("bright", "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert len(client.get_inference_statistics()["model_stats"]) == 3


def test_load(client: Any) -> None:
    client.load_model("bright")
    with pytest.raises(InferenceServerException, match="cannot be unloaded"):
        client.unload_model("bright")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model_name": "nope"}, "404", "unknown model"),
        ({"model_version": "9"}, "404", "unknown model"),
        ({"inputs": tensor(np.zeros((1, 4, 4, 3), np.uint8))}, "400", "shape"),
        ({"outputs": [triton.InferRequestedOutput("boxes")]}, "400", "there is no output"),
    ],
)
def test_errors(client: Any, change: dict[str, Any], status: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer(**{"model_name": "bright", "inputs": tensor(), **change})
    assert caught.value.status() == status


def test_bodies_made_by_hand(running: Running) -> None:
    body, length = triton.InferenceServerClient.generate_request_body(tensor())
    reply = running.post("/v2/models/bright/infer", body, {"Inference-Header-Content-Length": str(length)})
    split = int(reply.headers["Inference-Header-Content-Length"])
    result = triton.InferenceServerClient.parse_response_body(reply.body, header_length=split)
    np.testing.assert_allclose(result.as_numpy("probabilities"), ANSWER, atol=1e-6)


def test_a_file_that_was_not_made_for_it(running: Running, tmp_path: Path) -> None:
    """The client's shared memory is not there, and it is told so."""
    client = triton.InferenceServerClient(f"127.0.0.1:{running.port}")
    with pytest.raises(InferenceServerException, match="there is nothing at"):
        client.get_system_shared_memory_status()
    client.close()
