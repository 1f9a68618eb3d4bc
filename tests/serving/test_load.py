"""The tool that measures notices answers that are wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

from autotimm.benchmarks.serving_load import expected_answers, in_process, over_http

from .conftest import Serve, Slow, one_thread, png


def test_answers_are_compared(serve: Serve, artifact: Path) -> None:
    running = serve(artifact, workers=2)
    url = f"http://127.0.0.1:{running.port}"
    images = [png(level) for level in (0, 50, 100)]
    with one_thread(artifact) as predictor:
        expected = expected_answers(predictor, images)
        ceiling = in_process(predictor, images, threads=2, seconds=0.1)
    seen = asyncio.run(over_http(url, images, expected, clients=3, seconds=0.2))
    assert seen.wrong == seen.lost == 0
    assert seen.statuses == {200: len(seen.latencies)}
    assert min(seen.rate, seen.cpu_ms, seen.milliseconds(50), ceiling.rate, ceiling.cpu_ms) > 0
    expected[1]["predictions"][0]["score"] += 0.01
    seen = asyncio.run(over_http(url, images, expected, clients=3, seconds=0.2))
    assert 0 < seen.wrong < len(seen.latencies)


def test_refusals_are_counted(serve: Serve, artifact: Path) -> None:
    running = serve(artifact, Slow, queue_size=1, request_timeout=0.3)
    predictor = next(iter(running.models)).predictor
    assert isinstance(predictor, Slow)
    predictor.may_run.clear()
    seen = asyncio.run(over_http(f"http://127.0.0.1:{running.port}", [png(1)], [None], clients=6, seconds=0.2))
    predictor.may_run.set()
    assert seen.statuses[503] > seen.statuses[504] > 0
    assert not seen.latencies
