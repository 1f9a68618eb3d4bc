"""What serving costs over predicting in process: ``python -m autotimm.benchmarks.serving_load MODEL``.

Starts ``autotimm serve`` as a process of its own and sends it encoded images from 1, 8, 32 and 200 clients. The ceiling
is measured in the same rounds: as many threads as the server has workers (one for a single client) take the same bytes
to the same JSON in this process, without HTTP. Every answer is compared with what the model says of its image.

CPU time a request is the figure to look at: the clients run on the same cores, so they take from the server's pace.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from autotimm.runtime import Predictor, decode_image, list_images, load
from autotimm.runtime.environment import diagnose
from autotimm.runtime.pictures import write_pictures

_PAUSE = 0.05
"""Seconds that a client waits after a 503."""


@dataclass
class Load:
    """What one number of clients saw, or one number of threads in process."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the server, or of this process where there is none."""
    latencies: list[float] = field(default_factory=list)
    """In seconds, of the requests that were answered with a result."""
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    """Answers that are not those of their image."""
    lost: int = 0
    """Requests whose connection ended without an answer."""

    @property
    def rate(self) -> float:
        """Results a second."""
        return len(self.latencies) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a result; of the server those of refusals are in it."""
        return 1000 * self.cpu_seconds / max(1, len(self.latencies))

    def milliseconds(self, percent: float) -> float:
        """A percentile of the latencies."""
        return 1000 * float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


@contextlib.contextmanager
def started(model: Path, options: Sequence[str]) -> Iterator[str]:
    """A server in a process of its own; its URL."""
    command = [sys.executable, "-m", "autotimm", "serve", f"model={model}", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                if line.startswith("serving on "):
                    yield line.split()[2]
                    return
        raise SystemExit("the server did not start; run the command by itself: " + " ".join(command))
    finally:
        process.terminate()
        process.wait(30)


def expected_answers(predictor: Predictor, images: Sequence[bytes]) -> list[Any]:
    """The JSON of each image, as this process has it."""
    return [json.loads(_answer(predictor, image)) for image in images]


def in_process(predictor: Predictor, images: Sequence[bytes], threads: int, seconds: float) -> Load:
    """The same work without HTTP, on so many threads."""
    seen = Load()
    lock = threading.Lock()
    end = time.perf_counter() + seconds
    turns = itertools.count()

    def work() -> None:
        while (start := time.perf_counter()) < end:
            _answer(predictor, images[next(turns) % len(images)])
            with lock:
                seen.latencies.append(time.perf_counter() - start)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seen.seconds, seen.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return seen


async def over_http(url: str, images: Sequence[bytes], expected: Sequence[Any], clients: int, seconds: float) -> Load:
    """So many clients, each with a connection of its own, one request after another."""
    seen = Load()
    answers: Counter[tuple[int, bytes]] = Counter()
    turns = itertools.count()
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: "
    requests = [f"{head}{len(image)}\r\n\r\n".encode() + image for image in images]

    async def client(end: float) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.closing(writer):
            while (start := time.perf_counter()) < end:
                index = next(turns) % len(images)
                writer.write(requests[index])
                try:
                    status, body = await _read_response(reader)
                except (asyncio.IncompleteReadError, ConnectionError):
                    seen.lost += 1
                    return
                seen.statuses[status] += 1
                if status == 200:
                    seen.latencies.append(time.perf_counter() - start)
                    answers[index, body] += 1
                else:
                    await asyncio.sleep(_PAUSE)

    cpu = _server_cpu(url)
    start = time.perf_counter()
    await asyncio.gather(*(client(start + seconds) for _ in range(clients)))
    seen.seconds, seen.cpu_seconds = time.perf_counter() - start, _server_cpu(url) - cpu
    seen.wrong = sum(count for (index, body), count in answers.items() if not _close(json.loads(body), expected[index]))
    return seen


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


def _answer(predictor: Predictor, image: bytes) -> bytes:
    return json.dumps(predictor.predict(decode_image(image)).to_dict(), ensure_ascii=False).encode()


def _server_cpu(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total ")).split()[1])


def _close(found: Any, expected: Any) -> bool:
    """Whether two answers are the same but for the last digits, which other batch sizes may change."""
    if isinstance(expected, dict):
        return set(found) == set(expected) and all(_close(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    if isinstance(expected, float):
        return bool(abs(found - expected) <= 1e-3 * max(1.0, abs(expected)))
    return bool(found == expected)


def _merged(loads: Sequence[Load]) -> Load:
    whole = Load()
    for part in loads:
        whole.seconds += part.seconds
        whole.cpu_seconds += part.cpu_seconds
        whole.latencies += part.latencies
        whole.statuses += part.statuses
        whole.wrong += part.wrong
        whole.lost += part.lost
    return whole


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Measure autotimm serve against predicting in process.",
        epilog="Further options go to autotimm serve.",
    )
    parser.add_argument("model", type=Path, help="an artifact")
    parser.add_argument("--images", type=Path, metavar="DIR", help="JPEG or PNG files (generated ones if absent)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 200])
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default 5)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default 1)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = list_images(arguments.images)[:16] if arguments.images else write_pictures(Path(folder))
        images = [path.read_bytes() for path in paths]
    options = ["--workers", str(arguments.workers), "--threads", str(arguments.threads), *more]
    served: dict[int, list[Load]] = {clients: [] for clients in arguments.clients}
    ceilings: dict[int, list[Load]] = {clients: [] for clients in arguments.clients}
    with load(arguments.model, threads=arguments.threads) as predictor, started(arguments.model, options) as url:
        expected = expected_answers(predictor, images)
        for _ in range(arguments.rounds):
            for clients in arguments.clients:
                threads = min(clients, arguments.workers)
                ceilings[clients].append(in_process(predictor, images, threads, arguments.seconds))
                served[clients].append(asyncio.run(over_http(url, images, expected, clients, arguments.seconds)))
    rows = [_row(clients, served[clients], ceilings[clients]) for clients in arguments.clients]
    if arguments.json:
        environment = {finding.what: finding.found for finding in diagnose() if finding.works}
        arguments.json.write_text(json.dumps({"environment": environment, "options": options, "loads": rows}, indent=1))
    table = Table(*rows[0], title=f"{arguments.model.name}: autotimm serve {' '.join(options)}", box=None)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _row(clients: int, served: Sequence[Load], ceilings: Sequence[Load]) -> dict[str, float | int]:
    server, ceiling = _merged(served), _merged(ceilings)
    ratios = [ours.cpu_ms / theirs.cpu_ms for ours, theirs in zip(served, ceilings, strict=True)]
    return {
        "clients": clients,
        "results/s": server.rate,
        "ceiling/s": ceiling.rate,
        "p50 ms": server.milliseconds(50),
        "p99 ms": server.milliseconds(99),
        "ceiling p50 ms": ceiling.milliseconds(50),
        "ceiling p99 ms": ceiling.milliseconds(99),
        "CPU ms": server.cpu_ms,
        "ceiling CPU ms": ceiling.cpu_ms,
        "CPU ratio": statistics.median(ratios),
        "results": len(server.latencies),
        "503": server.statuses[503],
        "other": sum(count for status, count in server.statuses.items() if status not in (200, 503)),
        "wrong": server.wrong,
        "lost": server.lost,
    }


if __name__ == "__main__":
    main()
