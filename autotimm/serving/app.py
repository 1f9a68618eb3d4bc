"""The ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from autotimm.serving.gate import Gate
from autotimm.serving.hosting import HostedModels
from autotimm.serving.inference_routes import InferenceRoutes
from autotimm.serving.prediction_routes import PredictionRoutes
from autotimm.serving.request_errors import RequestError
from autotimm.serving.service import Service
from autotimm.serving.settings import ServerSettings
from autotimm.serving.watching import watch


def create_app(models: HostedModels, settings: ServerSettings) -> Gate:
    """The application for any ASGI server; deadlines of headers and connections need :mod:`autotimm.serving.server`.

    Args:
        models: opened.
        settings: of the server.
    """
    service = Service.of(models, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        service.pool.start()
        seconds = settings.reload_seconds
        watcher = asyncio.create_task(watch(models, seconds)) if seconds is not None else None
        try:
            yield
        finally:
            if watcher is not None:
                watcher.cancel()
            await asyncio.to_thread(service.pool.stop, settings.shutdown_timeout)

    routes = [*PredictionRoutes(service).routes(), *InferenceRoutes(service).routes()]
    return Gate(Router(routes, redirect_slashes=False, default=_not_found, lifespan=lifespan), service)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise RequestError(404, f"there is nothing at {scope['path'][:200]}; GET /v2 and GET /models say what there is")
