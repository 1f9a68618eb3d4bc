"""The bounded queue, and the threads that take from it.

ONNX Runtime, Pillow's decoders and most of numpy let other threads run meanwhile, so threads use every core and share
one copy of the model (docs/serving.md has the measurement). A worker takes what is waiting when it becomes free and
never waits for more: so there are batches only while all workers are busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotimm.runtime import Predictor
from autotimm.serving.hosting import HostedModel
from autotimm.serving.request_errors import OverloadError, RequestError

Outputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Answer:
    """The body of a response, complete."""

    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A request brought to the input of the network."""

    pixels: NDArray[np.uint8]
    """``[n, H, W, 3]``; of an artifact that takes images of any size ``[1, height, width, 3]``."""
    finish: Callable[[Predictor, Outputs], Answer]
    """The answer from this request's rows of the outputs."""


@dataclass(eq=False)
class Job:
    """One request in the queue."""

    model: HostedModel
    prepare: Callable[[Predictor], Prepared]
    deadline: float
    """In seconds of ``time.monotonic()``."""
    gone: Callable[[], bool]
    """Whether the client has gone."""
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer]
    queued: int = field(default_factory=time.perf_counter_ns)
    waited_ns: int = 0
    batch: int = 0
    """Images of the run that it was part of."""
    settled: bool = False

    def settle(self, outcome: Answer | BaseException) -> None:
        """Hand the first outcome to the event loop; a request that was given up meanwhile does not mind."""
        if self.settled:
            return
        self.settled = True
        well = isinstance(outcome, Answer)
        self.model.statistics.answered(time.perf_counter_ns() - self.queued, well=well)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(_settle, self.future, outcome)

    def is_void(self) -> bool:
        """Whether the work would be for nothing; the request is settled then."""
        self.waited_ns = time.perf_counter_ns() - self.queued
        if self.future.cancelled() or self.gone():
            self.settle(RequestError(499, "the client has gone"))
            return True
        if time.monotonic() >= self.deadline:
            self.settle(
                RequestError(504, "the request waited longer than its deadline allows; send less, or add workers")
            )
            return True
        return False


def _settle(future: asyncio.Future[Answer], outcome: Answer | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, Answer):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


class WorkerPool:
    """Threads over one queue.

    Args:
        workers: how many threads.
        queue_size: how many requests may wait.
        max_batch: images of one run at most, where the artifact leaves it free.
    """

    def __init__(self, workers: int, queue_size: int, max_batch: int) -> None:
        self.workers, self.queue_size, self.max_batch = workers, queue_size, max_batch
        self._jobs: deque[Job] = deque()
        self._ready = threading.Condition()
        self._idle = 0
        self._stopping = False
        self._mean_seconds = 0.05
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(workers)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Finish what is in the queue, then end the threads; one that an engine never gives back is left behind."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    @property
    def busy(self) -> int:
        """Workers at work."""
        return sum(thread.is_alive() for thread in self._threads) - self._idle

    def check_room(self) -> None:
        """Refuse a request whose place in the queue is taken, before its body is read.

        Raises:
            OverloadError: the queue is full.
        """
        if len(self._jobs) >= self.queue_size:
            with self._ready:
                self._forget_the_gone()
        if len(self._jobs) >= self.queue_size:
            seconds = math.ceil(len(self._jobs) * self._mean_seconds / self.workers)
            raise OverloadError(
                f"the queue is full ({self.queue_size} requests wait); come again later", max(1, seconds)
            )

    def submit(self, job: Job) -> None:
        """Put a request into the queue.

        Raises:
            OverloadError: the queue is full.
        """
        with self._ready:
            if self._idle <= len(self._jobs):  # a worker that is about to take one leaves room
                self.check_room()
            self._jobs.append(job)
            self._ready.notify()

    def _forget_the_gone(self) -> None:
        """Clients that left must not keep others out."""
        kept = [job for job in self._jobs if not job.is_void()]
        self._jobs.clear()
        self._jobs.extend(kept)

    def _work(self) -> None:
        while jobs := self._take():
            start = time.perf_counter()
            try:
                self._answer(jobs)
            except BaseException as error:
                for job in jobs:  # a worker that died would take its requests along, and all later ones
                    job.settle(error)
            self._mean_seconds += 0.05 * ((time.perf_counter() - start) / len(jobs) - self._mean_seconds)

    def _take(self) -> list[Job]:
        """The oldest request and, up to the batch, others of its model; empty at the end."""
        with self._ready:
            self._idle += 1
            while not self._jobs and not self._stopping:
                self._ready.wait()
            self._idle -= 1
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            taken = [first]
            limit = self._limit(first.model)
            if limit > 1 and self._jobs:
                # idle workers have been woken for the others: each gets its share
                share = math.ceil((len(self._jobs) + 1) / (self._idle + 1))
                for job in list(self._jobs):
                    if len(taken) >= min(limit, share):
                        break
                    if job.model is first.model:
                        self._jobs.remove(job)
                        taken.append(job)
            return taken

    def _limit(self, model: HostedModel) -> int:
        return model.batch_limit or self.max_batch

    def _answer(self, jobs: Sequence[Job]) -> None:
        predictor = jobs[0].model.predictor  # read once: a reload exchanges it between two runs
        ready: list[tuple[Job, Prepared, int]] = []
        for job in jobs:
            if job.is_void():
                continue
            start = time.perf_counter_ns()
            try:
                ready.append((job, job.prepare(predictor), time.perf_counter_ns() - start))
            except Exception as error:
                job.settle(error)
        for group in _groups(ready, self._limit(jobs[0].model)):
            self._run(predictor, group)

    def _run(self, predictor: Predictor, group: Sequence[tuple[Job, Prepared, int]]) -> None:
        model = group[0][0].model
        sizes = [len(prepared.pixels) for _, prepared, _ in group]
        start = time.perf_counter_ns()
        try:
            outputs = _run_together(predictor, [prepared.pixels for _, prepared, _ in group])
        except Exception as error:
            if len(group) > 1:  # whichever request it was, the others get their answers
                for member in group:
                    self._run(predictor, [member])
                return
            group[0][0].settle(error)
            return
        ran = time.perf_counter_ns()
        finished: list[tuple[Job, Answer | Exception]] = []
        row = 0
        for (job, prepared, _), size in zip(group, sizes, strict=True):
            job.batch = sum(sizes)
            own = {name: values[row : row + size] for name, values in outputs.items()}
            row += size
            try:
                finished.append((job, prepared.finish(predictor, own)))
            except Exception as error:
                finished.append((job, error))
        stages = {
            "compute_input": sum(ns for _, _, ns in group),
            "compute_infer": ran - start,
            "compute_output": time.perf_counter_ns() - ran,
        }
        model.statistics.ran(sum(sizes), [job.waited_ns for job, _, _ in group], stages)
        for job, outcome in finished:
            job.settle(outcome)


def _groups(ready: Sequence[tuple[Job, Prepared, int]], limit: int) -> list[list[tuple[Job, Prepared, int]]]:
    """Requests that run together: up to ``limit`` images, or one request that has more by itself."""
    groups: list[list[tuple[Job, Prepared, int]]] = []
    images = 0
    for member in ready:
        size = len(member[1].pixels)
        if not groups or images + size > limit:
            groups.append([])
            images = 0
        groups[-1].append(member)
        images += size
    return groups


def _run_together(predictor: Predictor, parts: Sequence[NDArray[np.uint8]]) -> Outputs:
    """The outputs of one run over all images, in order; past them lies what fills up a fixed batch."""
    if predictor.takes_image:
        return predictor.run(parts[0][0])
    images = sum(len(part) for part in parts)
    missing = max(0, (predictor.fixed_batch or images) - images)
    if len(parts) == 1 and not missing:
        return predictor.run(np.ascontiguousarray(parts[0]))
    filling = [np.zeros((missing, *parts[0].shape[1:]), np.uint8)] if missing else []
    return predictor.run(np.concatenate([*parts, *filling]))
