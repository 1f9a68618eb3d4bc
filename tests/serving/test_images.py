"""/predict: an encoded image in, the JSON of ``autotimm predict --json`` out."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotimm.runtime import load
from autotimm.runtime.pictures import generate
from autotimm.runtime.rle import decode

from .conftest import Running, Serve, png, serving, write_brightness, write_brightness_of_any_size, write_classes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(write_brightness(tmp_path_factory.mktemp("models") / "bright.onnx")) as running:
        yield running


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_equals_the_predictor(running: Running, form: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.fromarray(generate(60, 90, 3)).save(path, form)
    with load(write_brightness(tmp_path / "same.onnx")) as predictor:
        expected = predictor.predict(path).to_dict()
    for route in ("/predict", "/models/bright/predict", "/models/bright/versions/1/predict"):
        reply = running.post(route, path.read_bytes())
        assert reply.status == 200
        assert reply.json == expected
    assert (reply.json["width"], reply.json["height"], reply.json["task"]) == (90, 60, "classification")


def test_a_turned_photograph_is_upright(running: Running) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(generate(20, 40, 0)).save(file, "JPEG", exif=exif)
    reply = running.post("/predict", file.getvalue())
    assert (reply.json["width"], reply.json["height"]) == (20, 40)


def test_options(running: Running) -> None:
    every = running.post("/predict", png(51)).json["predictions"]
    assert [entry["score"] for entry in every] == [0.8, 0.2]
    assert running.post("/predict?min_score=0.5", png(51)).json["predictions"] == every[:1]
    assert running.post("/predict?top=1", png(51)).json["predictions"] == every[:1]
    for query in ("min_score=2", "min_score=x", "min_score=nan", "top=0", "top=1.5", "masks=yes", "least=1"):
        assert running.post(f"/predict?{query}", png(51)).status == 400, query


def form_of(content: bytes, name: str = "image") -> tuple[bytes, dict[str, str]]:
    boundary = "----B0undary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    other = f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    body = other.encode() + head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def test_forms(running: Running) -> None:
    plain = running.post("/predict", png(100)).json
    for name in ("image", "file"):
        assert running.post("/predict", *form_of(png(100), name)).json == plain
    body, headers = form_of(png(100), "picture")
    assert "2 fields" in running.post("/predict", body, headers).json["error"]
    assert "cut off" in running.post("/predict", body[:-8], headers).json["error"]
    assert running.post("/predict", b"\r\n------B0undary" * 100_000, headers).status == 400
    assert "no boundary" in running.post("/predict", body, {"Content-Type": "multipart/form-data"}).json["error"]


def test_a_compressed_body(running: Running) -> None:
    reply = running.post("/predict", gzip.compress(png(100)), {"Content-Encoding": "gzip"})
    assert reply.json == running.post("/predict", png(100)).json
    assert running.post("/predict", png(100), {"Content-Encoding": "br"}).status == 415


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "is empty"),
        (b"not a picture", "is not an image that can be read here (JPEG, PNG)"),
        (png(1)[:-30], "cannot be decoded"),
        (b"GIF89a" + bytes(20), "(JPEG, PNG)"),
    ],
)
def test_what_is_not_an_image(running: Running, body: bytes, complaint: str) -> None:
    reply = running.post("/predict", body)
    assert reply.status == 400
    assert complaint in reply.json["error"]


def test_a_bomb_is_refused_by_its_header(serve: Serve, artifact: Path) -> None:
    """13,000 x 13,000 pixels of one colour in less than a megabyte; decoded they are half a gigabyte."""
    running = serve(artifact)
    side = 13_000
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(20)) + rows.flush()  # it need not be complete
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    reply = running.post("/predict", b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert reply.status == 400
    assert "13000 x 13000 is 169 megapixels, refused before decoding since the limit is 50" in reply.json["error"]


def test_masks_of_classes(serve: Serve, tmp_path: Path) -> None:
    artifact = write_classes(tmp_path / "red.onnx")
    running = serve(artifact)
    file = io.BytesIO()
    Image.fromarray(generate(50, 90, 1)).save(file, "PNG")
    with load(artifact) as predictor:
        expected = predictor.predict(Image.open(file))
    plain = running.post("/predict", file.getvalue()).json
    assert plain == expected.to_dict()
    for entry in running.post("/predict?masks=true", file.getvalue()).json["predictions"]:
        np.testing.assert_array_equal(decode(entry["mask"]), expected.mask == entry["label"])
    assert running.post("/predict?min_score=0.1", file.getvalue()).status == 400


def test_an_artifact_that_takes_images_of_any_size(serve: Serve, tmp_path: Path) -> None:
    """It runs one image at a time, whatever waits."""
    running = serve(write_brightness_of_any_size(tmp_path / "any.onnx"), max_batch=8)
    levels = [10, 50, 90, 130, 170, 210]
    with ThreadPoolExecutor(6) as clients:
        sent = [png(level, (20 + level, 30)) for level in levels]
        replies = list(clients.map(lambda body: running.post("/predict", body), sent))
    assert [reply.json["width"] for reply in replies] == [20 + level for level in levels]
    for level, reply in zip(levels, replies, strict=True):
        scores = {entry["name"]: entry["score"] for entry in reply.json["predictions"]}
        assert scores["light"] == pytest.approx(level / 255, abs=1e-6)
    (found,) = running.get("/v2/models/bright/stats").json["model_stats"]
    assert [batch["batch_size"] for batch in found["batch_stats"]] == [1]
    assert running.get("/v2/models/bright").json["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}
    ]
    assert running.get("/v2/models/bright/config").json["max_batch_size"] == 0
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 5, 3], "data": [51] * 30}
    answer = running.post("/v2/models/bright/infer", json.dumps({"inputs": [tensor]}).encode()).json
    assert answer["outputs"][0]["shape"] == [1, 3]
    np.testing.assert_allclose(answer["outputs"][0]["data"], [0.8, 0.2, 0], atol=1e-6)


def test_several_models_must_be_named(serve: Serve, artifact: Path) -> None:
    running = serve({"one": artifact, "two": artifact})
    assert "post to /models/NAME/predict: one, two" in running.post("/predict", png(1)).json["error"]
    assert running.post("/models/two/predict", png(1)).status == 200


def test_the_page(running: Running) -> None:
    reply = running.get("/")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"src=" not in reply.body.replace(b"img-src", b"")  # self-contained
    assert b"http" not in reply.body
    (model,) = running.get("/models").json
    assert (model["name"], model["classes"]) == ("bright", ["dark", "light", "other"])
    assert all(len(color) == 7 for color in model["colors"])
