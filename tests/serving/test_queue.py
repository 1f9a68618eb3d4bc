"""Every answer belongs to its request; what does not fit is refused at once; nothing stops the workers."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from .conftest import Reply, Running, Serve, Slow, png, until, write_brightness
from .test_protocol import binary_request, images


@pytest.fixture
def slow(serve: Serve, artifact: Path) -> tuple[Running, Slow]:
    return start_slow(serve, artifact, queue_size=3)


def start_slow(serve: Serve, artifact: Path, **settings: object) -> tuple[Running, Slow]:
    opened: list[Slow] = []

    def opener(path: Path) -> Slow:
        opened.append(Slow(path))
        return opened[-1]

    running = serve(artifact, opener, **settings)
    opened[0].sizes.clear()
    return running, opened[0]


def light(reply: Reply) -> float:
    assert reply.status == 200, reply.body
    return {entry["name"]: entry["score"] for entry in reply.json["predictions"]}["light"]


@pytest.mark.parametrize(("workers", "max_batch"), [(1, 1), (3, 1), (2, 4)])
def test_every_answer_belongs_to_its_request(serve: Serve, artifact: Path, workers: int, max_batch: int) -> None:
    running = serve(artifact, workers=workers, max_batch=max_batch)
    levels = list(range(0, 256, 4))
    with ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda level: running.post("/predict", png(level)), levels))
    np.testing.assert_allclose([light(reply) for reply in replies], np.array(levels) / 255, atol=2e-6)


def test_batches_only_while_the_workers_are_busy(serve: Serve, artifact: Path) -> None:
    running, predictor = start_slow(serve, artifact, max_batch=4)
    with ThreadPoolExecutor(8) as clients:
        predictor.may_run.clear()
        first = clients.submit(running.post, "/predict", png(0))
        until(lambda: predictor.sizes == [1])  # alone, and at once
        others = []
        for level in range(1, 7):
            others.append(clients.submit(running.post, "/predict", png(level)))
            until(lambda: running.server._service.pool.waiting == len(others))
        predictor.may_run.set()
        answers = [light(future.result()) for future in (first, *others)]
    assert predictor.sizes == [1, 4, 2]
    np.testing.assert_allclose(answers, np.arange(7) / 255, atol=2e-6)


def test_images_and_tensors_share_a_batch(serve: Serve, artifact: Path) -> None:
    running, predictor = start_slow(serve, artifact, max_batch=4)
    with ThreadPoolExecutor(4) as clients:
        predictor.may_run.clear()
        first = clients.submit(running.post, "/predict", png(0))
        until(lambda: predictor.sizes == [1])
        second = clients.submit(running.post, "/v2/models/bright/infer", *binary_request(images(10, 20)))
        until(lambda: running.server._service.pool.waiting == 1)
        third = clients.submit(running.post, "/predict", png(30))
        until(lambda: running.server._service.pool.waiting == 2)
        predictor.may_run.set()
        assert light(first.result()) == 0
        data = second.result().json["outputs"][0]["data"]
        assert light(third.result()) == pytest.approx(30 / 255, abs=1e-6)
    np.testing.assert_allclose([data[1], data[4]], [10 / 255, 20 / 255], atol=1e-6)
    assert predictor.sizes == [1, 3]


def test_a_fixed_batch_is_filled_with_what_waits(serve: Serve, tmp_path: Path) -> None:
    running, predictor = start_slow(serve, write_brightness(tmp_path / "two.onnx", 2))
    assert light(running.post("/predict", png(200))) == pytest.approx(200 / 255, abs=1e-6)
    assert predictor.sizes == [2]
    (found,) = running.get("/v2/models/bright/stats").json["model_stats"]
    assert found["inference_count"] == 1


def test_a_full_queue_answers_503_at_once(slow: tuple[Running, Slow]) -> None:
    running, predictor = slow
    with ThreadPoolExecutor(8) as clients:
        predictor.may_run.clear()
        taken = [clients.submit(running.post, "/predict", png(0))]
        until(lambda: predictor.sizes == [1])
        taken += [clients.submit(running.post, "/predict", png(level)) for level in (1, 2, 3)]
        until(lambda: running.server._service.pool.waiting == 3)
        refused = running.post("/predict", png(9))
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "the queue is full" in refused.json["error"]
        assert running.metric("nv_inference_pending_request_count") == 3
        assert running.get("/v2/health/ready").status == 200
        predictor.may_run.set()
        answers = [light(future.result()) for future in taken]
    np.testing.assert_allclose(answers, np.arange(4) / 255, atol=2e-6)
    assert running.post("/predict", png(9)).status == 200


def test_a_worker_that_fails_answers_500_and_goes_on(slow: tuple[Running, Slow]) -> None:
    running, predictor = slow
    predictor.fails_on = 66
    reply = running.post("/predict", png(66), {"X-Request-Id": "find-me"})
    assert reply.status == 500
    assert reply.json == {"error": "the server failed on this request; its log has the id find-me", "id": "find-me"}
    assert light(running.post("/predict", png(67))) == pytest.approx(67 / 255, abs=1e-6)


def test_one_bad_request_of_a_batch_fails_alone(serve: Serve, artifact: Path) -> None:
    running, predictor = start_slow(serve, artifact, max_batch=4)
    predictor.fails_on = 66
    with ThreadPoolExecutor(4) as clients:
        predictor.may_run.clear()
        first = clients.submit(running.post, "/predict", png(0))
        until(lambda: predictor.sizes == [1])
        bodies = {66: png(66), 1: b"not a picture", 255: png(255)}
        others = {level: clients.submit(running.post, "/predict", body) for level, body in bodies.items()}
        until(lambda: running.server._service.pool.waiting == 3)
        predictor.may_run.set()
        assert first.result().status == 200
        assert {level: future.result().status for level, future in others.items()} == {66: 500, 1: 400, 255: 200}
        assert light(others[255].result()) == 1


def test_a_request_past_its_deadline(serve: Serve, artifact: Path) -> None:
    running, predictor = start_slow(serve, artifact, request_timeout=0.3)
    predictor.may_run.clear()
    reply = running.post("/predict", png(0))
    assert (reply.status, "deadline" in reply.json["error"]) == (504, True)
    predictor.may_run.set()
    assert running.post("/predict", png(0)).status == 200


def test_the_timeout_of_a_client_in_microseconds(slow: tuple[Running, Slow]) -> None:
    running, predictor = slow
    body, headers = binary_request(images(1), parameters={"timeout": 50_000})
    predictor.may_run.clear()
    assert running.post("/v2/models/bright/infer", body, headers).status == 504
    predictor.may_run.set()
    assert running.post("/v2/models/bright/infer", body, headers).status == 200


def test_clients_that_leave_are_not_worked_for(slow: tuple[Running, Slow]) -> None:
    running, predictor = slow
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png(1))
    with ThreadPoolExecutor(1) as clients:
        predictor.may_run.clear()
        first = clients.submit(running.post, "/predict", png(0))
        until(lambda: predictor.sizes == [1])
        with running.raw(head + png(1)):
            until(lambda: running.server._service.pool.waiting == 1)
        until(lambda: len(running.server.server_state.connections) == 1)
        predictor.may_run.set()
        assert first.result().status == 200
    assert light(running.post("/predict", png(2))) == pytest.approx(2 / 255, abs=1e-6)
    assert predictor.sizes == [1, 1]  # not for the one that left


def test_clients_that_leave_keep_nobody_out(slow: tuple[Running, Slow]) -> None:
    running, predictor = slow
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png(1))
    with ThreadPoolExecutor(2) as clients:
        predictor.may_run.clear()
        first = clients.submit(running.post, "/predict", png(0))
        until(lambda: predictor.sizes == [1])
        with running.raw(head + png(1)), running.raw(head + png(1)), running.raw(head + png(1)):
            until(lambda: running.server._service.pool.waiting == 3)
        until(lambda: len(running.server.server_state.connections) == 1)
        second = clients.submit(running.post, "/predict", png(9))
        until(lambda: running.server._service.pool.waiting == 1)
        predictor.may_run.set()
        assert (first.result().status, second.result().status) == (200, 200)
    assert predictor.sizes == [1, 1]


def test_bodies_together_have_a_limit(serve: Serve, artifact: Path) -> None:
    running = serve(artifact, max_pending_bytes=1000)
    with running.raw(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n" + bytes(800)):
        until(lambda: running.server._service.budget.held == 800)
        reply = running.post("/predict", bytes(300))
        assert (reply.status, "bytes of other requests" in reply.json["error"]) == (503, True)
    until(lambda: running.server._service.budget.held == 0)
    assert running.post("/predict", png(0)).status == 200


def test_nothing_is_lost_at_the_end(serve: Serve, artifact: Path) -> None:
    running, predictor = start_slow(serve, artifact)
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=20)
    with connection, ThreadPoolExecutor(8) as clients:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        predictor.may_run.clear()
        taken = [clients.submit(running.post, "/predict", png(level)) for level in range(4)]
        until(lambda: running.server._service.pool.waiting == 3)
        running.server.stop()
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")  # on a connection that was idle
        late = connection.recv(4096)
        threading.Timer(0.2, predictor.may_run.set).start()
        answers = [light(future.result()) for future in taken]
    np.testing.assert_allclose(answers, np.arange(4) / 255, atol=2e-6)
    assert late.startswith(b"HTTP/1.1 503")
    assert b"connection: close" in late
    running.thread.join(20)
    assert not running.thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        running.get("/v2/health/live")


def test_counters(slow: tuple[Running, Slow]) -> None:
    running, _ = slow
    labels = '{model="bright",version="1"}'
    assert running.metric(f"nv_inference_request_success{labels}") == 0
    running.post("/predict", png(1))
    running.post("/predict", b"no picture")
    assert running.metric(f"nv_inference_request_success{labels}") == 1
    assert running.metric(f"nv_inference_request_failure{labels}") == 1
    assert running.metric(f"nv_inference_exec_count{labels}") == 1
    assert running.metric('autotimm_http_requests_total{route="predict",status="200"}') == 1
    assert running.metric('autotimm_http_requests_total{route="predict",status="400"}') == 1
    assert running.metric('autotimm_http_request_duration_seconds_bucket{route="predict",le="+Inf"}') == 2
    assert running.metric("process_cpu_seconds_total") > 0
    names = [
        line.split()[2] for line in running.get("/metrics").body.decode().splitlines() if line.startswith("# TYPE")
    ]
    assert len(names) == len(set(names))
