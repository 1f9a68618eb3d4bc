"""The Open Inference Protocol over a real socket; bodies are written by hand, after the specification."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Running, Serve, serving, write_brightness

BINARY = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(write_brightness(tmp_path_factory.mktemp("models") / "bright.onnx")) as running:
        yield running


def images(*levels: int) -> np.ndarray:
    return np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])


def json_request(values: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(values.shape), "data": values.ravel().tolist()}
    return {"inputs": [tensor], **more}


def binary_request(values: np.ndarray, **more: Any) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(values.shape),
        "parameters": {"binary_data_size": values.nbytes},
    }
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return head + values.tobytes(), {BINARY: str(len(head))}


def infer(running: Running, request: dict[str, Any], path: str = "/v2/models/bright/infer") -> Any:
    reply = running.post(path, json.dumps(request).encode())
    assert reply.status == 200, reply.body
    return reply.json


def test_health(running: Running) -> None:
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/bright/ready",
        "/v2/models/bright/versions/1/ready",
    ):
        reply = running.get(path)
        assert (reply.status, reply.body) == (200, b"")


def test_metadata(running: Running) -> None:
    server = running.get("/v2").json
    assert server["name"] == "autotimm"
    assert "binary_tensor_data" in server["extensions"]
    model = running.get("/v2/models/bright").json
    assert model == running.get("/v2/models/bright/versions/1").json
    assert (model["name"], model["versions"], model["platform"]) == ("bright", ["1"], "onnxruntime_onnx")
    assert model["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert model["outputs"][1:] == [
        {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "labels", "datatype": "INT32", "shape": [-1, 2]},
    ]


def test_configuration_leaves_the_free_batch_out(serve: Serve, tmp_path: Path) -> None:
    models = {"free": write_brightness(tmp_path / "f.onnx"), "fixed": write_brightness(tmp_path / "x.onnx", 2)}
    running = serve(models, max_batch=4)
    free, fixed = (running.get(f"/v2/models/{name}/config").json for name in models)
    assert (free["max_batch_size"], free["input"][0]["dims"]) == (4, [8, 8, 3])
    assert (fixed["max_batch_size"], fixed["input"][0]["dims"]) == (0, [2, 8, 8, 3])
    assert free["input"][0]["data_type"] == "TYPE_UINT8"
    assert "dynamic_batching" in free
    assert "dynamic_batching" not in fixed


def test_repository_index(serve: Serve, artifact: Path) -> None:
    running = serve({"a:1": artifact, "a:12": artifact, "b": artifact})
    found = running.post("/v2/repository/index", b"{}").json
    assert [(entry["name"], entry["version"], entry["state"]) for entry in found] == [
        *[("a", "1", "READY"), ("a", "12", "READY"), ("b", "1", "READY")],
    ]


def test_json_tensors(running: Running) -> None:
    answer = infer(running, json_request(images(51, 255), id="mine"))
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "bright", "1")
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["probabilities"]["shape"] == [2, 3]
    np.testing.assert_allclose(outputs["probabilities"]["data"], [0.8, 0.2, 0, 0, 1, 0], atol=1e-6)
    assert outputs["labels"]["data"] == [0, 1, 1, 0]


def test_nested_json_tensors(running: Running) -> None:
    request = json_request(images(51))
    request["inputs"][0]["data"] = images(51).tolist()
    assert infer(running, request) == infer(running, json_request(images(51)))


def test_binary_tensors(running: Running) -> None:
    body, headers = binary_request(images(51, 204), id="7", parameters={"binary_data_output": True})
    reply = running.post("/v2/models/bright/versions/1/infer", body, headers)
    assert reply.status == 200, reply.body
    split = int(reply.headers[BINARY])
    answer = json.loads(reply.body[:split])
    assert reply.headers["Content-Type"] == "application/octet-stream"
    place, arrays = split, {}
    for output in answer["outputs"]:
        size = output["parameters"]["binary_data_size"]
        dtype = {"FP32": np.float32, "INT32": np.int32}[output["datatype"]]
        arrays[output["name"]] = np.frombuffer(reply.body[place : place + size], dtype).reshape(output["shape"])
        place += size
    assert place == len(reply.body)
    np.testing.assert_allclose(arrays["probabilities"], [[0.8, 0.2, 0], [0.2, 0.8, 0]], atol=1e-6)
    assert arrays["labels"].tolist() == [[0, 1], [1, 0]]


def test_only_the_outputs_asked_for(running: Running) -> None:
    wanted = [{"name": "labels"}, {"name": "scores", "parameters": {"binary_data": True}}]
    reply = running.post("/v2/models/bright/infer", json.dumps(json_request(images(0), outputs=wanted)).encode())
    split = int(reply.headers[BINARY])
    labels, scores = json.loads(reply.body[:split])["outputs"]
    assert (labels["name"], labels["data"]) == ("labels", [0, 1])
    assert "data" not in scores
    assert np.frombuffer(reply.body[split:], np.float32).tolist() == [1.0, 0.0]


def test_classification_extension(running: Running) -> None:
    wanted = [{"name": "probabilities", "parameters": {"classification": 2}}]
    (output,) = infer(running, json_request(images(51), outputs=wanted))["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["0.800000:0:dark", "0.200000:1:light"]


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_both_ways(running: Running, name: str, pack: Any) -> None:
    body, headers = binary_request(images(*range(60)), parameters={"binary_data_output": True})
    plain = running.post("/v2/models/bright/infer", body, headers)
    packed = running.post(
        "/v2/models/bright/infer", pack(body), {**headers, "Content-Encoding": name, "Accept-Encoding": name}
    )
    assert packed.headers["Content-Encoding"] == name
    assert packed.headers[BINARY] == plain.headers[BINARY]
    unpacked = gzip.decompress(packed.body) if name == "gzip" else zlib.decompress(packed.body)
    assert unpacked == plain.body


def test_statistics(serve: Serve, artifact: Path) -> None:
    running = serve(artifact)
    infer(running, json_request(images(1, 2, 3)))
    infer(running, json_request(images(4)))
    assert running.post("/v2/models/bright/infer", b"{").status == 400
    (found,) = running.get("/v2/models/bright/stats").json["model_stats"]
    assert found == running.get("/v2/models/stats").json["model_stats"][0]
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
    counts = {name: entry["count"] for name, entry in found["inference_stats"].items()}
    assert (counts["success"], counts["fail"], counts["queue"], counts["compute_infer"]) == (2, 1, 2, 2)
    assert [batch["batch_size"] for batch in found["batch_stats"]] == [1, 3]
    assert found["inference_stats"]["compute_infer"]["ns"] > 0


def test_the_highest_version_answers(serve: Serve, tmp_path: Path) -> None:
    models = {
        "bright:9": write_brightness(tmp_path / "9.onnx", slope=0.5),
        "bright:10": write_brightness(tmp_path / "10.onnx"),
    }
    running = serve(models)
    light = {}
    for version, path in {"": "", "9": "/versions/9", "10": "/versions/10"}.items():
        answer = infer(running, json_request(images(255)), f"/v2/models/bright{path}/infer")
        assert answer["model_version"] == (version or "10")
        light[version] = answer["outputs"][0]["data"][1]
    assert light == {"": 1.0, "9": 0.5, "10": 1.0}
    assert running.get("/v2/models/bright").json["versions"] == ["9", "10"]
    assert running.get("/v2/models/bright/versions/11").status == 404


def test_unknown_models(running: Running) -> None:
    for reply in (running.get("/v2/models/nope"), running.post("/v2/models/nope/infer", b"{}")):
        assert reply.status == 404
        assert "Request for unknown model: 'nope' is not found" in reply.json["error"]
    assert running.get("/v2/models/nope/ready").status == 404
    assert running.get("/somewhere").status == 404


def test_the_wrong_method(running: Running) -> None:
    reply = running.get("/v2/models/bright/infer")
    assert (reply.status, reply.headers["Allow"], reply.json["error"]) == (405, "POST", "Method Not Allowed")


def wrong(change: dict[str, Any]) -> bytes:
    request = json_request(images(1))
    request["inputs"][0] |= change
    return json.dumps(request).encode()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "'inputs' must be a list"),
        (b'{"inputs": []}', "the model takes images uint8"),
        (wrong({"name": "image"}), "the model takes images uint8"),
        (wrong({"datatype": "FP32"}), 'datatype is "FP32", but must be UINT8'),
        (wrong({"shape": [1, 8, 8]}), "the shape is [1, 8, 8]"),
        (wrong({"shape": [1, 8, 9, 3]}), "the shape is [1, 8, 9, 3]"),
        (wrong({"shape": [0, 8, 8, 3]}), "the shape is [0, 8, 8, 3]"),
        (wrong({"shape": "many"}), 'the shape is "many"'),
        (wrong({"data": [1]}), "the data are 1 values"),
        (wrong({"data": [256] * 192}), "values 256..256 are outside 0..255"),
        (wrong({"data": [-1] * 192}), "values -1..-1 are outside 0..255"),
        (wrong({"data": [0.5] * 192}), "of type float64"),
        (wrong({"data": ["a"] * 192}), "of type str"),
        (wrong({"data": [[1, 2], [3]]}), "not numbers of one shape"),
        (wrong({"data": None}), "has neither 'data' nor"),
        (wrong({"parameters": 3}), "'parameters' must be an object"),
        (wrong({"parameters": {"binary_data_size": 191}}), "binary_data_size is 191, but its shape needs 192"),
        (wrong({"parameters": {"binary_data_size": 192}}), "but only 0 came"),
        (json.dumps(json_request(images(1), outputs=[{"name": "boxes"}])).encode(), 'there is no output "boxes"'),
        (json.dumps(json_request(images(1), outputs=[{"name": "labels"}] * 2)).encode(), "asked for twice"),
    ],
)
def test_wrong_requests_are_400(running: Running, body: bytes, complaint: str) -> None:
    reply = running.post("/v2/models/bright/infer", body)
    assert reply.status == 400
    assert complaint in reply.json["error"]
    assert reply.json["id"] == reply.headers["X-Request-Id"]


def test_bytes_that_do_not_add_up(running: Running) -> None:
    body, headers = binary_request(images(1))
    for sent, complaint in ((body + b"x", "1 bytes lie behind"), (body[:-1], "but only 191 came")):
        reply = running.post("/v2/models/bright/infer", sent, headers)
        assert (reply.status, complaint in reply.json["error"]) == (400, True)
    for length in ("0", "100000", "-1", "x"):
        assert running.post("/v2/models/bright/infer", body, {BINARY: length}).status == 400


def test_long_json(serve: Serve, artifact: Path) -> None:
    running = serve(artifact, max_json_bytes=2000)
    many = images(*range(20))
    reply = running.post("/v2/models/bright/infer", json.dumps(json_request(many)).encode())
    assert (reply.status, "send fewer images, or binary tensors" in reply.json["error"]) == (413, True)
    assert running.post("/v2/models/bright/infer", *binary_request(many)).status == 200


def test_a_fixed_batch_is_asked_for_as_a_whole(serve: Serve, tmp_path: Path) -> None:
    running = serve(write_brightness(tmp_path / "two.onnx", 2))
    assert infer(running, json_request(images(0, 255)))["outputs"][2]["data"] == [0, 1, 1, 0]
    assert running.post("/v2/models/bright/infer", json.dumps(json_request(images(0))).encode()).status == 400


def test_models_are_not_unloaded(running: Running) -> None:
    reply = running.post("/v2/repository/models/bright/unload")
    assert (reply.status, "cannot be unloaded" in reply.json["error"]) == (400, True)
