"""What the routes of one server share, and the way of a request through the queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from autotimm.runtime import Predictor
from autotimm.serving.bodies import Budget, packed, read_body
from autotimm.serving.hosting import HostedModel, HostedModels
from autotimm.serving.metrics import HttpMetrics
from autotimm.serving.request_errors import RequestError
from autotimm.serving.settings import ServerSettings
from autotimm.serving.workers import Answer, Job, Prepared, WorkerPool


@dataclass(eq=False)
class Service:
    """The models, the workers and the limits of one server."""

    settings: ServerSettings
    models: HostedModels
    pool: WorkerPool
    budget: Budget
    metrics: HttpMetrics = field(default_factory=HttpMetrics)
    draining: bool = False
    """No longer ready: the server finishes what it has and ends."""

    @classmethod
    def of(cls, models: HostedModels, settings: ServerSettings) -> Service:
        """With workers that are still to be started."""
        pool = WorkerPool(settings.worker_count, settings.queue_size, settings.max_batch)
        return cls(settings, models, pool, Budget(settings.max_pending_bytes))

    def find(self, name: str, version: str | None = None) -> HostedModel:
        """The model of a name.

        Raises:
            RequestError: 404, there is none.
        """
        model = self.models.find(name, version)
        if model is None:
            what = f"{name!r} version {version}" if version else repr(name)
            raise RequestError(
                404, f"Request for unknown model: {what} is not found; known: {', '.join(self.models.names)}"
            )
        return model

    async def answer(
        self,
        request: Request,
        model: HostedModel,
        prepare: Callable[[bytes, Predictor], Prepared],
        *,
        seconds: Callable[[bytes], float | None] = lambda body: None,
    ) -> Response:
        """Read the body, wait for a worker's answer, send it.

        Args:
            request: whose body was not read yet.
            model: that is to run.
            prepare: from the body as it was sent to the network's input; called in a worker.
            seconds: how long the client itself wants to wait at most, from the body.

        Raises:
            RequestError: a limit or a deadline, or what ``prepare`` raises.
            ClientGoneError: nobody waits any more.
        """
        state: dict[str, Any] = request.scope["state"]
        started = state["started"]
        settings = self.settings
        state["model"] = model
        self.pool.check_room()
        with self.budget.share() as share:
            body = await read_body(
                request.receive,
                request.headers,
                limit=settings.max_body_bytes,
                deadline=started + min(settings.body_timeout, settings.request_timeout),
                share=share,
            )
            state["bytes_in"] = len(body)
            deadline = started + settings.request_timeout
            wanted = seconds(body)
            if wanted is not None:
                deadline = min(deadline, time.monotonic() + wanted)
            answer = await self._through_the_queue(request, model, lambda predictor: prepare(body, predictor), deadline)
        body, encoding = packed(answer.body, request.headers.get("accept-encoding"))
        headers = dict(answer.headers)
        if encoding:
            headers["Content-Encoding"] = encoding
        return Response(body, media_type=answer.media_type, headers=headers)

    async def _through_the_queue(
        self, request: Request, model: HostedModel, prepare: Callable[[Predictor], Prepared], deadline: float
    ) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        gone: Callable[[], bool] = request.scope["state"].get("gone", lambda: False)
        job = Job(model, prepare, deadline, gone, loop, future)
        self.pool.submit(job)

        def expire() -> None:
            if not future.done():
                future.set_exception(
                    RequestError(504, "the request was not answered within its deadline; send less, or add workers")
                )

        timer = loop.call_later(max(0.0, deadline - time.monotonic()), expire)
        try:
            return await future
        finally:
            timer.cancel()
            request.scope["state"]["job"] = job
