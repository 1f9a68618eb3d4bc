"""Ids, the key, log lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from autotimm.serving.logs import JsonLines

from .conftest import Serve, Slow, png, until

HEALTH = ("/v2/health/live", "/v2/health/ready")


def test_ids_come_back(serve: Serve, artifact: Path) -> None:
    running = serve(artifact)
    assert running.get("/v2", **{"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    made = [running.get("/v2").headers["X-Request-Id"] for _ in range(2)]
    assert len(set(made)) == 2
    for odd in ("a b", "x" * 200, "é"):
        assert running.get("/v2", **{"X-Request-Id": odd}).headers["X-Request-Id"] != odd


def test_the_key(serve: Serve, artifact: Path) -> None:
    running = serve(artifact, api_key="s3cret")
    for path in (*HEALTH, "/"):
        assert running.get(path).status == 200
    for path in ("/v2", "/metrics", "/models", "/v2/models/bright", "/nowhere"):
        refused = running.get(path)
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    for wrong in ("Bearer s3cre", "Bearer", "Basic s3cret", "s3cret", "Bearer é"):
        assert running.post("/predict", png(1), {"Authorization": wrong}).status == 401
    assert running.post("/predict", png(1), {"Authorization": "Bearer s3cret"}).status == 200
    assert running.post("/predict", png(1), {"X-API-Key": "s3cret"}).status == 200


def test_a_line_for_each_request(serve: Serve, artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    running = serve(artifact, Slow)
    predictor = next(iter(running.models)).predictor
    assert isinstance(predictor, Slow)
    predictor.fails_on = 66
    with caplog.at_level(logging.INFO, "autotimm.serving"):
        running.post("/predict", png(1), {"X-Request-Id": "one"})
        running.post("/predict", png(66), {"X-Request-Id": "two"})
        until(lambda: len(caplog.records) == 2)  # the line is written behind the answer
    found = [json.loads(JsonLines().format(record)) for record in caplog.records if record.message == "request"]
    lines = {line["id"]: line for line in found}
    good, bad = lines["one"], lines["two"]
    assert (good["status"], good["path"], good["model"], good["batch"]) == (200, "/predict", "bright", 1)
    assert good["bytes_in"] == len(png(1))
    assert good["ms"] >= good["queue_ms"] >= 0
    assert (bad["status"], bad["level"]) == (500, "error")
    assert "RuntimeError: the engine broke down" in bad["traceback"]
