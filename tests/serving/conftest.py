"""A tiny artifact whose answers are known, and servers on real sockets, in this process."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from autotimm.runtime import Manifest, Predictor, Preprocess, TensorSpec, Verification, load
from autotimm.serving import HostedModel, HostedModels, ModelSource, ServerSettings, bind, create_app
from autotimm.serving.server import Server


def brightness_manifest(batch: int | str) -> Manifest:
    return Manifest(
        task="classification",
        architecture="brightness",
        class_names=("dark", "light", "other"),
        preprocess=Preprocess((8, 8)),
        inputs=(TensorSpec("images", "uint8", (batch, 8, 8, 3)),),
        outputs=(
            TensorSpec("probabilities", "float32", (batch, 3)),
            TensorSpec("scores", "float32", (batch, 2)),
            TensorSpec("labels", "int32", (batch, 2)),
        ),
        postprocessing={"activation": "softmax"},
        verification=Verification("passed", "for the tests"),
    )


def write_brightness(path: Path, batch: int | str = "batch", slope: float = 1.0, **manifest: Any) -> Path:
    """An artifact with the probabilities (1 - b, b, 0), b the mean of the pixels over 255, times ``slope``."""
    constants = {
        "slope": np.array([[-slope, slope, 0]], np.float32),
        "start": np.array([[1, 0, 0]], np.float32),
        "white": np.array(255, np.float32),
        "pixel_axes": np.array([1, 2, 3], np.int64),
        "last_axes": np.array([2, 3], np.int64),
        "k": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "pixel_axes"], ["mean"]),
        helper.make_node("Div", ["mean", "white"], ["mean01"]),
        helper.make_node("Squeeze", ["mean01", "last_axes"], ["brightness"]),
        helper.make_node("Mul", ["brightness", "slope"], ["change"]),
        helper.make_node("Add", ["change", "start"], ["probabilities"]),
        helper.make_node("TopK", ["probabilities", "k"], ["scores", "places"]),
        helper.make_node("Cast", ["places"], ["labels"], to=TensorProto.INT32),
    ]
    described = replace(brightness_manifest(batch), **manifest)
    if described.input_mode == "image":
        constants["first_axis"] = np.array([0], np.int64)
        nodes.insert(0, helper.make_node("Unsqueeze", ["image", "first_axis"], ["images"]))
    return _write(nodes, constants, described, path)


def write_brightness_of_any_size(path: Path) -> Path:
    """The same for one image of any size, as it is."""
    inputs = (TensorSpec("image", "uint8", ("height", "width", 3)),)
    return write_brightness(path, 1, inputs=inputs, input_mode="image")


def write_classes(path: Path) -> Path:
    """Semantic segmentation by the red channel: ``light`` from 128 on, else ``background``; 32 x 48, stretched."""
    manifest = Manifest(
        task="semantic_segmentation",
        architecture="red",
        class_names=("background", "light"),
        preprocess=Preprocess((32, 48)),
        inputs=(TensorSpec("images", "uint8", (1, 32, 48, 3)),),
        outputs=(TensorSpec("mask", "uint8", (1, 32, 48)),),
        palette=((1, 2, 3), (250, 128, 0)),
    )
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["channel"], axis=3),
        helper.make_node("Div", ["channel", "half"], ["mask"]),
    ]
    return _write(nodes, {"red": np.array(0, np.int64), "half": np.array(128, np.uint8)}, manifest, path)


def _write(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], manifest: Manifest, path: Path) -> Path:
    types = {"uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], list(spec.shape)) for spec in side]
        for side in (manifest.inputs, manifest.outputs)
    )
    tables = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, manifest.architecture, inputs, outputs, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"autotimm": manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return write_brightness(tmp_path / "bright.onnx")


def png(level: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A grey picture as a PNG file."""
    file = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(file, "PNG")
    return file.getvalue()


def one_thread(path: Path) -> Predictor:
    return load(path, threads=1)


class Slow(Predictor):
    """A predictor whose runs wait until they may go on, and are counted."""

    def __init__(self, path: Path) -> None:
        inner = one_thread(path)
        super().__init__(inner.backend, inner.manifest)
        self.may_run = threading.Event()
        self.may_run.set()
        self.sizes: list[int] = []
        self.fails_on: int | None = None
        """The grey level of a picture on which the engine breaks down."""

    def run(self, batch: Any) -> dict[str, Any]:
        self.sizes.append(len(batch))
        assert self.may_run.wait(20)
        if self.fails_on is not None and (batch[:, 0, 0, 0] == self.fails_on).any():
            raise RuntimeError("the engine broke down")
        return super().run(batch)


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a thread."""

    port: int
    server: Server
    models: HostedModels
    thread: threading.Thread

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    @contextmanager
    def raw(self, data: bytes) -> Iterator[socket.socket]:
        """A connection on which these bytes were sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as opened:
            opened.sendall(data)
            yield opened

    def metric(self, line: str) -> float:
        """The value of a line of /metrics that begins like this."""
        (found,) = [row for row in self.get("/metrics").body.decode().splitlines() if row.startswith(line + " ")]
        return float(found.rsplit(" ", 1)[1])


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes the connection."""
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


Serve = Callable[..., Running]


@contextmanager
def serving(
    models: dict[str, Path] | Path, opener: Callable[[Path], Predictor] = one_thread, **settings: Any
) -> Iterator[Running]:
    """A server on files, a name each (``NAME`` or ``NAME:VERSION``)."""
    named = models if isinstance(models, dict) else {"bright": models}
    sources = []
    for key, path in named.items():
        name, _, version = key.partition(":")
        sources.append(ModelSource(name, version or "1", path))
    hosted = HostedModels(HostedModel.open(source, opener) for source in sources)
    ready = threading.Event()
    server = Server(create_app(hosted, ServerSettings(**{"workers": 1, **settings})), ready.set)
    with bind("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        port = bound.getsockname()[1]
        thread.start()
        try:
            assert ready.wait(20)
            yield Running(port, server, hosted, thread)
        finally:
            server.stop()
            thread.join(20)
    assert not thread.is_alive()


Serve = Callable[..., Running]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """:func:`serving`, until the end of the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(serving(*arguments, **settings))
