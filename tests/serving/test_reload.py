"""A model file replaced while it is served: taken where it is sound, else left alone."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from autotimm.runtime import Verification

from .conftest import Running, Serve, png, until, write_brightness

LOAD = "/v2/repository/models/bright/load"
NOT_RUN = Verification("not run", "no reason")


def light(running: Running) -> float:
    """What the model says about a white picture: its slope."""
    reply = running.post("/predict", png(255))
    assert reply.status == 200
    return float(next(entry["score"] for entry in reply.json["predictions"] if entry["name"] == "light"))


def replace_with(path: Path, source: Path) -> None:
    shutil.copyfile(source, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def test_a_verified_file_is_taken(serve: Serve, artifact: Path, tmp_path: Path) -> None:
    running = serve(artifact)
    assert light(running) == 1
    replace_with(artifact, write_brightness(tmp_path / "other.onnx", slope=0.75))
    assert light(running) == 1  # not before it is asked to
    assert running.post(LOAD).status == 200
    assert light(running) == 0.75
    assert running.metric('autotimm_model_reloads_total{model="bright",version="1",outcome="done"}') == 1


def test_an_unverified_file_must_answer_as_before(serve: Serve, artifact: Path, tmp_path: Path) -> None:
    running = serve(artifact)
    replace_with(artifact, write_brightness(tmp_path / "a.onnx", slope=0.75, verification=NOT_RUN))
    reply = running.post(LOAD)
    assert (reply.status, "was not run, and its output probabilities is not that" in reply.json["error"]) == (400, True)
    assert light(running) == 1
    replace_with(artifact, write_brightness(tmp_path / "b.onnx", slope=0.9999, verification=NOT_RUN))
    assert running.post(LOAD).status == 200
    assert light(running) == pytest.approx(0.9999)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"class_names": ("dark", "bright", "other")}, "its class_names are others"),
        ({"batch": 2}, "its inputs are others"),
        ({"verification": Verification("failed", "too far off")}, "its verification failed (too far off)"),
        ({"slope": float("nan")}, "output probabilities is not finite"),
        ({"task": "detection"}, "bright.onnx"),
        ({}, "bright.onnx"),
    ],
)
def test_what_is_not_taken(
    serve: Serve, artifact: Path, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    running = serve(artifact)
    other = tmp_path / "other.onnx"
    if change:
        write_brightness(other, **change)  # type: ignore[arg-type]
    else:
        other.write_bytes(artifact.read_bytes()[:500])  # half a file
    replace_with(artifact, other)
    reply = running.post(LOAD)
    assert reply.status == 400
    assert complaint in reply.json["error"]
    assert "the model that was loaded before stays" in reply.json["error"]
    assert light(running) == 1
    assert running.metric('autotimm_model_reloads_total{model="bright",version="1",outcome="refused"}') == 1
    replace_with(artifact, write_brightness(other, slope=0.5))
    assert running.post(LOAD).status == 200
    assert light(running) == 0.5


def test_watching_under_load(serve: Serve, artifact: Path, tmp_path: Path) -> None:
    """Requests go on meanwhile; every answer is that of one of the two files, and a broken one changes nothing."""
    running = serve(artifact, workers=2, reload_seconds=0.05)
    slopes: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            slopes.append(light(running))

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    artifact.write_bytes(b"not a model")
    statistics = next(iter(running.models)).statistics
    until(lambda: statistics.reloads["refused"] == 1)
    replace_with(artifact, write_brightness(tmp_path / "new.onnx", slope=0.5))
    until(lambda: statistics.reloads["done"] == 1)
    asked = len(slopes)
    until(lambda: len(slopes) > asked + 6)
    done.set()
    for client in clients:
        client.join()
    assert set(slopes) == {1.0, 0.5}
    assert statistics.reloads == {"done": 1, "refused": 1}
    assert slopes[-1] == 0.5
    artifact.unlink()  # a file that goes away is no change
    time.sleep(0.2)
    assert light(running) == 0.5
