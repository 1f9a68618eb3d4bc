"""Counters of the server in the text format of Prometheus; those of models are named as Triton names them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotimm.serving.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of request times, in seconds."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


class HttpMetrics:
    """Requests by route and status, and how long they took; used from the event loop only."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: dict[str, list[int]] = {}
        self.sums: Counter[str] = Counter()
        self.in_flight = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self.requests[route, status] += 1
        counts = self.seconds.setdefault(route, [0] * (len(BUCKETS) + 1))
        counts[sum(seconds > bound for bound in BUCKETS)] += 1
        self.sums[route] += seconds  # type: ignore[assignment]


def prometheus_text(service: Service) -> str:
    """Everything that is counted."""
    lines: list[str] = []
    for name, kind, text, samples in _families(service):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{full}{_labels(labels)} {_number(value)}" for full, labels, value in samples]
    return "\n".join(lines) + "\n"


def _families(service: Service) -> Iterable[tuple[str, str, str, list[Sample]]]:
    models = [({"model": model.name, "version": model.version}, model.statistics) for model in service.models]

    def of_models(name: str, values: Iterable[float]) -> list[Sample]:
        return [(name, labels, value) for (labels, _), value in zip(models, values, strict=True)]

    known = [statistics for _, statistics in models]
    for name, text, values in (
        ("nv_inference_request_success", "Requests answered with a result", [s.success.count for s in known]),
        ("nv_inference_request_failure", "Requests that failed", [s.fail.count for s in known]),
        ("nv_inference_count", "Images predicted", [s.images for s in known]),
        ("nv_inference_exec_count", "Runs of the engine", [s.runs for s in known]),
        (
            "nv_inference_request_duration_us",
            "Time of requests from the queue to the answer",
            [(s.success.ns + s.fail.ns) // 1000 for s in known],
        ),
        ("nv_inference_queue_duration_us", "Time of requests in the queue", [s.queue.ns // 1000 for s in known]),
        *(
            (f"nv_inference_{stage}_duration_us", f"Time of {stage}", [s.stages[stage].ns // 1000 for s in known])
            for stage in ("compute_input", "compute_infer", "compute_output")
        ),
    ):
        yield name, "counter", text, of_models(name, values)
    name = "autotimm_model_reloads_total"
    yield (
        name,
        "counter",
        "Attempts to take a new model file",
        [
            (name, {**labels, "outcome": outcome}, count)
            for labels, statistics in models
            for outcome, count in statistics.reloads.items()
        ],
    )
    yield from _gauges(service)
    yield from _http(service.metrics)


def _gauges(service: Service) -> Iterable[tuple[str, str, str, list[Sample]]]:
    pool = service.pool
    for name, text, value in (
        ("nv_inference_pending_request_count", "Requests in the queue", float(pool.waiting)),
        ("autotimm_workers", "Worker threads", float(pool.workers)),
        ("autotimm_workers_busy", "Worker threads at work", float(pool.busy)),
        ("autotimm_pending_bytes", "Bytes of bodies held", float(service.budget.held)),
        ("autotimm_http_requests_in_flight", "Requests being answered", float(service.metrics.in_flight)),
    ):
        yield name, "gauge", text, [(name, {}, value)]
    name = "process_cpu_seconds_total"
    yield name, "counter", "CPU time of the server, user and system", [(name, {}, time.process_time())]


def _http(metrics: HttpMetrics) -> Iterable[tuple[str, str, str, list[Sample]]]:
    name = "autotimm_http_requests_total"
    counted: list[Sample] = [
        (name, {"route": route, "status": str(status)}, count)
        for (route, status), count in sorted(metrics.requests.items())
    ]
    yield name, "counter", "Requests by route and status", counted
    name = "autotimm_http_request_duration_seconds"
    samples: list[Sample] = []
    for route, counts in sorted(metrics.seconds.items()):
        below = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
            below += count
            samples.append((f"{name}_bucket", {"route": route, "le": bound}, below))
        samples.append((f"{name}_sum", {"route": route}, float(metrics.sums[route])))
        samples.append((f"{name}_count", {"route": route}, below))
    yield name, "histogram", "Time from the headers to the end of the answer", samples


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in labels.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(labels, escaped, strict=True)) + "}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
