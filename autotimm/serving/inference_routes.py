"""The Open Inference Protocol, version 2, over HTTP, with the extensions of Triton that clients use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from autotimm.runtime import AutoTimmError, Predictor
from autotimm.serving.bodies import unpacked
from autotimm.serving.description import (
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from autotimm.serving.hosting import HostedModel
from autotimm.serving.logs import log
from autotimm.serving.request_errors import RequestError
from autotimm.serving.service import Service
from autotimm.serving.tensors import read_request, write_response
from autotimm.serving.workers import Answer, Outputs, Prepared

_HEADER_LENGTH = "Inference-Header-Content-Length"


class InferenceRoutes:
    """Every path below ``/v2``.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    def routes(self) -> list[Route]:
        """For a router; the busiest first."""
        found = []
        for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            found += [
                _route(f"{base}/infer", "infer", self._infer, "POST"),
                _route(f"{base}/ready", "ready", self._model_ready),
                _route(f"{base}/config", "config", self._config),
                _route(f"{base}/stats", "stats", self._statistics),
                _route(base, "metadata", self._metadata),
            ]
        return [
            _route("/v2/health/live", "health", self._live),
            _route("/v2/health/ready", "health", self._ready),
            _route("/v2/models/stats", "stats", self._all_statistics),
            *found,
            _route("/v2", "metadata", self._server_metadata),
            _route("/v2/", "metadata", self._server_metadata),
            _route("/v2/repository/index", "repository", self._index, "POST"),
            _route("/v2/repository/models/{name}/load", "repository", self._load, "POST"),
            _route("/v2/repository/models/{name}/unload", "repository", self._unload, "POST"),
        ]

    def _model(self, request: Request) -> HostedModel:
        return self.service.find(request.path_params["name"], request.path_params.get("version"))

    async def _live(self, request: Request) -> Response:
        return Response(status_code=200)

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=503 if self.service.draining else 200)

    async def _model_ready(self, request: Request) -> Response:
        self._model(request)
        return Response(status_code=503 if self.service.draining else 200)

    async def _server_metadata(self, request: Request) -> Response:
        return JSONResponse(server_metadata())

    async def _metadata(self, request: Request) -> Response:
        model = self._model(request)
        return JSONResponse(model_metadata(model, self.service.models.versions(model.name)))

    async def _config(self, request: Request) -> Response:
        settings = self.service.settings
        return JSONResponse(model_config(self._model(request), settings.max_batch, settings.worker_count))

    async def _statistics(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version")
        self._model(request)
        chosen = [m for m in self.service.models if m.name == name and version in (None, m.version)]
        return JSONResponse({"model_stats": [model_statistics(model) for model in chosen]})

    async def _all_statistics(self, request: Request) -> Response:
        return JSONResponse({"model_stats": [model_statistics(model) for model in self.service.models]})

    async def _index(self, request: Request) -> Response:
        return JSONResponse(repository_index(self.service.models))

    async def _load(self, request: Request) -> Response:
        """Look at the files of a model again; all of its versions."""
        self._model(request)
        for model in list(self.service.models):
            if model.name == request.path_params["name"]:
                await reload_and_log(model)
        return Response(status_code=200)

    async def _unload(self, request: Request) -> Response:
        raise RequestError(400, "models cannot be unloaded here; start the server without this one")

    async def _infer(self, request: Request) -> Response:
        model = self._model(request)
        length = _header_length(request)
        encoding, settings = request.headers.get("content-encoding"), self.service.settings

        def prepare(body: bytes, predictor: Predictor) -> Prepared:
            content = unpacked(body, encoding, settings.max_body_bytes)
            if (length or len(content)) > settings.max_json_bytes:
                raise RequestError(
                    413, f"the JSON may have {settings.max_json_bytes} bytes; send fewer images, or binary tensors"
                )
            manifest = predictor.manifest
            wanted = read_request(content, length, manifest.inputs, manifest.outputs)
            (pixels,) = wanted.inputs.values()

            def finish(predictor: Predictor, outputs: Outputs) -> Answer:
                body, split = write_response((model.name, model.version), wanted, outputs, manifest.class_names)
                if split is None:
                    return Answer(body)
                return Answer(body, "application/octet-stream", {_HEADER_LENGTH: str(split)})

            return Prepared(pixels[None] if predictor.takes_image else pixels, finish)  # type: ignore[arg-type]

        return await self.service.answer(
            request, model, prepare, seconds=lambda body: _wanted_seconds(body, length, encoding)
        )


async def reload_and_log(model: HostedModel) -> None:
    """Take the new file of a model, in a thread of its own.

    Raises:
        RequestError: 400, it was not taken.
    """
    try:
        await asyncio.to_thread(model.reload)
    except AutoTimmError as error:
        log("reload", level=40, model=model.name, version=model.version, outcome="refused", reason=str(error))
        raise RequestError(400, str(error)) from error
    created = model.manifest.created or None
    log("reload", model=model.name, version=model.version, outcome="done", created=created)


def _header_length(request: Request) -> int | None:
    text = request.headers.get(_HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise RequestError(400, f"{_HEADER_LENGTH} is {text[:40]!r}, but must be a number of bytes")
    return int(text)


def _wanted_seconds(body: bytes, length: int | None, encoding: str | None) -> float | None:
    """``parameters.timeout`` of a binary request, which is in microseconds; its JSON is short enough to look at."""
    if length is None or encoding is not None or not 0 < length <= 1 << 16 or b'"timeout"' not in body[:length]:
        return None
    try:
        timeout: Any = json.loads(body[:length])["parameters"]["timeout"]
        return float(timeout) / 1e6 if float(timeout) > 0 else None
    except (ValueError, TypeError, KeyError):  # said properly where the request is read
        return None


def _route(path: str, name: str, endpoint: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
    return Route(path, named(name, endpoint), methods=[method])


def named(name: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose requests are counted and logged under a name."""

    async def call(request: Request) -> Response:
        request.scope["state"]["route"] = name
        return await endpoint(request)

    return call
