"""Clients that are slow, that stop in the middle, or that send too much."""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Running, Serve, png, read_all, serving, until, write_brightness

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(
        write_brightness(tmp_path_factory.mktemp("models") / "bright.onnx"),
        header_timeout=0.3,
        body_timeout=0.4,
        max_body_bytes=100_000,
        max_header_bytes=8192,
    ) as running:
        yield running


def content_of(answer: bytes) -> dict[str, str]:
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /v2 HTTP/1.1\r\nHost: x\r\n"])
def test_headers_that_do_not_come(running: Running, sent: bytes) -> None:
    start = time.monotonic()
    with running.raw(sent) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 0.2 < time.monotonic() - start < 5


def test_headers_that_come_in_drops(running: Running) -> None:
    """A byte now and then does not extend the time for all of them."""
    start = time.monotonic()
    cut = False
    with running.raw(b"GET /v2 HTTP/1.1\r\n") as connection:
        while not cut and time.monotonic() < start + 5:
            time.sleep(0.02)
            try:
                connection.sendall(b"a: b\r\n")
            except OSError:
                cut = True
    assert cut


def test_a_body_that_does_not_come(running: Running) -> None:
    with running.raw(POST + b"Content-Length: 1000\r\n\r\n12345") as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "5 bytes of 1000 came" in content_of(answer)["error"]


def test_half_a_request(running: Running) -> None:
    before = running.server._service.metrics.requests["predict", 499]
    with running.raw(POST + b"Content-Length: 1000\r\n\r\n12345"):
        pass
    until(lambda: running.server._service.metrics.requests["predict", 499] == before + 1)
    assert running.post("/predict", png(1)).status == 200


@pytest.mark.parametrize("head", [b"Content-Length: 1000000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_that_is_too_large(running: Running, head: bytes) -> None:
    """The answer comes while the client is still sending, and can be read although the client does not listen."""
    piece = bytes(50_000)
    if b"chunked" in head:
        piece = b"%x\r\n" % len(piece) + piece + b"\r\n"
    with running.raw(POST + head + b"\r\n") as connection:
        for _ in range(20):
            connection.sendall(piece)
        answer = b""
        while b"the body may have 100000 bytes" not in answer:
            part = connection.recv(4096)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_expect_100_continue(running: Running) -> None:
    """curl asks before it sends a large body; a refusal comes in place of the invitation."""
    with running.raw(POST + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    body = png(1)
    with running.raw(POST + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)) as connection:
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_that_unpacks_to_too_much(running: Running, name: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(10**7))
    assert len(bomb) < 20_000
    for path in ("/predict", "/v2/models/bright/infer"):
        reply = running.post(path, bomb, {"Content-Encoding": name})
        assert (reply.status, "unpacks to more" in reply.json["error"]) == (413, True)
    small = pack(png(1))
    for damaged in (small[:-9], small + b"x", b"x" + small):
        assert running.post("/predict", damaged, {"Content-Encoding": name}).status == 400


def test_headers_that_are_too_large(running: Running) -> None:
    for head in (b"a: b\r\n" * 2000, b"a: " + b"b" * 20_000, b""):
        line = b"GET /v2 HTTP/1.1\r\n" if head else b"GET /" + b"a" * 20_000
        with running.raw(line + head) as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_several_requests_on_one_connection(running: Running) -> None:
    """Also after a refusal, and where the next one is sent before the answer of the one before."""
    body = png(1)
    good = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    bad = POST + b"Content-Length: 3\r\n\r\nabc"
    with running.raw(good + bad + good) as connection:
        data = b""
        while data.count(b'"predictions"') < 2:
            part = connection.recv(4096)
            assert part
            data += part
    assert re.findall(rb"HTTP/1.1 (\d+) ", data) == [b"200", b"400", b"200"]


def test_answers_are_not_held_back(running: Running) -> None:
    """The accepted sockets must be known as TCP, or asyncio leaves Nagle's algorithm on."""
    with running.raw(b""):
        until(lambda: running.server.server_state.connections)
        connection = next(iter(running.server.server_state.connections))
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_not_http(running: Running) -> None:
    with running.raw(b"\x16\x03\x01 hello\r\n\r\n") as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_more_connections_than_allowed(serve: Serve, tmp_path: Path) -> None:
    running = serve(write_brightness(tmp_path / "b.onnx"), max_connections=2)
    with running.raw(b""), running.raw(b""):
        until(lambda: len(running.server.server_state.connections) == 2)
        with running.raw(b"") as third:
            answer = read_all(third)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in answer
    until(lambda: not running.server.server_state.connections)
    assert running.get("/v2/health/live").status == 200


def test_a_client_that_does_not_read(serve: Serve, tmp_path: Path) -> None:
    """It asks for more than the buffers of the system hold."""
    running = serve(write_brightness(tmp_path / "b.onnx"), write_timeout=0.3)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        until(lambda: running.server.server_state.connections)
        until(lambda: not running.server.server_state.connections)
    assert running.get("/v2/health/live").status == 200
