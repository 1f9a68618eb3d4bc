"""Latency of one artifact, stage by stage, as ``autotimm benchmark`` reports it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from autotimm.benchmarks.timing import Timing, clock, warm_up
from autotimm.runtime import Predictor, load_image

STAGES = ("decode", "preprocess", "engine", "postprocess")
"""Reading the file; resizing on the host, which an artifact with image input does in the graph; the whole graph;
mapping results back to the image.
"""


@dataclass(frozen=True)
class LatencyReport:
    """What was measured on one artifact."""

    model: str
    backend: str
    file_mb: float
    load_ms: float
    first_ms: float
    """The first prediction, which pays for lazy initialisation."""
    warm_up_runs: int
    batch: int
    """Images of each run: more than one where the artifact takes no fewer."""
    stages: dict[str, Timing]
    """For one whole batch: the ``STAGES``, then ``predict`` (decoded images), ``end to end`` (files) and ``bare
    session`` (the graph alone on a prepared input)."""

    @property
    def overhead(self) -> float:
        """``predict`` over ``bare session``, medians of the same run."""
        return self.stages["predict"].p50 / self.stages["bare session"].p50

    @property
    def throughput(self) -> float:
        """Images a second, batch after batch, from file to result."""
        return 1000.0 * self.batch / self.stages["end to end"].p50

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; durations in milliseconds."""
        return {
            "model": self.model,
            "backend": self.backend,
            "file_mb": round(self.file_mb, 3),
            "load_ms": round(self.load_ms, 3),
            "first_ms": round(self.first_ms, 3),
            "warm_up_runs": self.warm_up_runs,
            "batch": self.batch,
            "stages": {name: timing.to_dict() for name, timing in self.stages.items()},
            "overhead": round(self.overhead, 4),
            "throughput": round(self.throughput, 3),
        }


def measure_latency(
    predictor: Predictor, path: Path, images: Sequence[Path], *, runs: int, load_ms: float
) -> LatencyReport:
    """Run an artifact over the images, round and round, in batches of the size that it takes.

    Every run times the stages one by one, then a whole ``predict`` and the bare graph, so that each ratio is taken
    within milliseconds and a machine whose speed drifts does not bend it.

    Args:
        predictor: the artifact, loaded.
        path: its file, for the report.
        images: image files.
        runs: how often to go through the stages.
        load_ms: how long loading took.
    """
    seconds: dict[str, list[float]] = {name: [] for name in (*STAGES, "predict", "end to end", "bare session")}
    count = predictor.least_batch
    endless = cycle(images)
    decoded = [load_image(source) for source in islice(cycle(images), count)]
    first = clock(lambda: predictor.predict(decoded))
    warm_up_runs = warm_up(lambda: predictor.predict(decoded))
    for _ in range(runs):
        sources = list(islice(endless, count))
        moments = [time.perf_counter()]
        decoded = [load_image(source) for source in sources]
        moments.append(time.perf_counter())
        prepared = [predictor.prepare(image) for image in decoded]
        pixels = predictor.as_input([image for image, _ in prepared])
        moments.append(time.perf_counter())
        outputs = predictor.run(pixels)
        moments.append(time.perf_counter())
        predictor.finish(outputs, [placement for _, placement in prepared])
        moments.append(time.perf_counter())
        for name, start, end in zip(STAGES, moments, moments[1:], strict=False):
            seconds[name].append(end - start)
        seconds["end to end"].append(moments[-1] - moments[0])
        seconds["predict"].append(clock(lambda: predictor.predict(decoded)))  # noqa: B023 (called at once)
        seconds["bare session"].append(clock(lambda: predictor.run(pixels)))  # noqa: B023
    return LatencyReport(
        model=str(path),
        backend=predictor.backend.name,
        file_mb=path.stat().st_size / 1e6,
        load_ms=load_ms,
        first_ms=1000.0 * first,
        warm_up_runs=warm_up_runs,
        batch=count,
        stages={name: Timing.of(values) for name, values in seconds.items()},
    )
