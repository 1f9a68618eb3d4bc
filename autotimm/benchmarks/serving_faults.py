"""What a server does when things go wrong: ``python -m autotimm.benchmarks.serving_faults MODEL``.

Each row of the table in docs/serving.md is one function here. The server is a process of its own with the defaults of
``autotimm serve`` but for short deadlines; after each case a good request must be answered as ever.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from autotimm.runtime.pictures import generate

_OPTIONS = ("--header-timeout", "2", "--body-timeout", "2", "--reload")
_POST = "POST /predict HTTP/1.1\r\nHost: x\r\n"


@dataclass
class Target:
    """The server under test."""

    process: subprocess.Popen[str]
    port: int
    model: Path
    picture: bytes

    @property
    def megabytes(self) -> float:
        """Resident memory of the server at its peak, on Linux."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return float("nan")

    def ask(self, body: bytes | None = None) -> tuple[int, bytes]:
        """One image on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", "/predict", self.picture if body is None else body)
            response = connection.getresponse()
            return response.status, response.read()

    def raw(self) -> socket.socket:
        """A connection to write on."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@contextlib.contextmanager
def target(model: Path) -> Iterator[Target]:
    """A server on a copy of a model."""
    file = io.BytesIO()
    Image.fromarray(generate(480, 640, 0)).save(file, "JPEG", quality=90)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(model, folder))
        command = [sys.executable, "-m", "autotimm", "serve", str(copy), "--port", "0", "--workers", "2", *_OPTIONS]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            with process.stdout:
                line = next(line for line in process.stdout if line.startswith("serving on "))
                yield Target(process, int(line.split()[2].rpartition(":")[2]), copy, file.getvalue())
        finally:
            process.kill()
            process.wait()


def _answer_on(connection: socket.socket) -> str:
    data = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].removeprefix(b"HTTP/1.1 ").decode() or "nothing"
    with contextlib.suppress(ValueError):
        return f"{status}: {json.loads(body)['error']}"
    return status


def _crowd(server: Target, clients: int, seconds: float, until: Callable[[], bool] = lambda: False) -> Counter[str]:
    """So many clients that ask again and again; what they got, by status or exception."""
    expected = server.ask()[1]
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def client() -> None:
        while time.monotonic() < end and not until():
            try:
                status, body = server.ask()
                outcome = "wrong" if status == 200 and body != expected else str(status)
            except ConnectionRefusedError:
                outcome = "refused"
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def overload(server: Target) -> str:
    """200 clients, 64 places in the queue."""
    return _counted(_crowd(server, 200, 4))


def slow_headers(server: Target) -> str:
    """A byte of the headers every tenth of a second."""
    start = time.monotonic()
    with server.raw() as connection:
        connection.sendall(_POST.encode())
        connection.settimeout(0.1)
        data = b""
        while not data and time.monotonic() < start + 30:
            with contextlib.suppress(TimeoutError):
                data = connection.recv(4096)
            with contextlib.suppress(OSError):
                connection.sendall(b"a")
    return f"{data.split(b' ', 1)[1][:19].decode()} after {time.monotonic() - start:.1f} s"


def slow_body(server: Target) -> str:
    """100 clients that send a byte and wait, while others ask."""
    connections = [server.raw() for _ in range(100)]
    for connection in connections:
        connection.sendall(f"{_POST}Content-Length: 1000\r\n\r\nx".encode())
    others = _crowd(server, 2, 1)
    answers = Counter(_answer_on(connection) for connection in connections)
    for connection in connections:
        connection.close()
    return f"{_counted(answers)}; the others meanwhile: {_counted(others)}"


def half_requests(server: Target) -> str:
    """200 clients that go away in the middle of the body, or before their answer."""
    for turn in range(200):
        with server.raw() as connection:
            body = server.picture if turn % 2 else server.picture[:1000]
            connection.sendall(f"{_POST}Content-Length: {len(server.picture)}\r\n\r\n".encode() + body)
    return "closed; no work is done for those who are gone"


def gigabyte(server: Target) -> str:
    """A body of 1 GB, with and without its length said."""
    answers = []
    for head, piece in (
        ("Content-Length: 1000000000", bytes(1 << 20)),
        ("Transfer-Encoding: chunked", b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
    ):
        with server.raw() as connection:
            connection.sendall(f"{_POST}{head}\r\n\r\n".encode())
            sent = 0
            with contextlib.suppress(OSError):
                while sent < 950:
                    connection.sendall(piece)
                    sent += 1
            answers.append(_answer_on(connection))
    return " / ".join(answers)


def bomb_of_pixels(server: Target) -> str:
    """A PNG of 13,000 x 13,000 pixels in some hundred kilobytes."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * 13_000)) for _ in range(13_000)) + rows.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    status, body = server.ask(b"\x89PNG\r\n\x1a\n" + png)
    return f"{status}: {json.loads(body)['error']}"


def bomb_of_gzip(server: Target) -> str:
    """A megabyte that unpacks to a gigabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    with server.raw() as connection:
        head = f"{_POST}Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: {len(bomb)}\r\n\r\n"
        connection.sendall(head.encode() + bomb)
        return _answer_on(connection)


def replaced_file(server: Target) -> str:
    """The model file replaced under load: by half a file, then by a good one."""
    whole = server.model.read_bytes()
    done = threading.Event()

    def replace() -> None:
        for content in (whole[: len(whole) // 2], whole):
            temporary = server.model.with_suffix(".tmp")
            temporary.write_bytes(content)
            temporary.replace(server.model)
            time.sleep(4)
        done.set()

    threading.Thread(target=replace).start()
    outcomes = _crowd(server, 8, 30, done.is_set)
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    counters = [line for line in lines if line.startswith("autotimm_model_reloads_total{")]
    reloads = [line.partition('outcome="')[2].replace('"}', "") for line in counters]
    return f"{_counted(outcomes)}; reloads {', '.join(reloads)}"


def terminated(server: Target) -> str:
    """SIGTERM under the load of 32 clients, who come again and again until nobody listens."""
    stopped = threading.Timer(1.5, server.process.send_signal, (signal.SIGTERM,))
    stopped.start()
    outcomes = _crowd(server, 32, 4)
    status = server.process.wait(30)
    return f"{_counted(outcomes)} (the last: nobody listens any more); exit status {status}"


CASES = (
    *(overload, slow_headers, slow_body, half_requests, gigabyte, bomb_of_pixels, bomb_of_gzip, replaced_file),
    terminated,
)


def _counted(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} x {outcome}" for outcome, count in sorted(outcomes.items()))


def main() -> None:
    """Try everything and print what happened."""
    parser = argparse.ArgumentParser(description="Try what may go wrong with autotimm serve.")
    parser.add_argument("model", type=Path, help="an artifact")
    arguments = parser.parse_args()
    table = Table("what", "what happened", "then a good request", "peak MB", box=None)
    with target(arguments.model) as server:
        for case in CASES:
            outcome = case(server)
            after = "" if case is terminated else str(server.ask()[0])
            table.add_row((case.__doc__ or "").strip().rstrip("."), outcome, after, f"{server.megabytes:.0f}")
    Console(width=None if sys.stdout.isatty() else 400).print(table)


if __name__ == "__main__":
    main()
