"""What every request passes: its id, the key, errors as JSON, one log line, counters."""

from __future__ import annotations

import hmac
import json
import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotimm.serving.logs import log
from autotimm.serving.request_errors import ClientGoneError, RequestError, request_error_of

if TYPE_CHECKING:
    from autotimm.serving.service import Service

OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""Asked for without the key: probes have none, and the page has nothing to hide."""
_IDENTITY = re.compile(r"[\x21-\x7e]{1,128}")


class Gate:
    """ASGI middleware around all routes.

    Args:
        app: the routes. They raise :class:`RequestError`.
        service: whose counters and settings are used.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["app"] = self  # with it, Starlette's router raises its errors in place of answering in plain text
        state: dict[str, Any] = scope.setdefault("state", {})
        state["started"] = started = time.monotonic()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state["id"] = identity = given if _IDENTITY.fullmatch(given) else f"{random.getrandbits(128):032x}"
        answer = _Sending(send, identity, self.service)
        self.service.metrics.in_flight += 1
        failure: Exception | None = None
        try:
            self._check_key(scope, headers)
            await self.app(scope, receive, answer)
        except ClientGoneError:
            answer.status = answer.status or 499  # nginx's number for it; nobody reads this answer
        except Exception as error:
            refusal = request_error_of(error)
            if refusal is None:
                failure = error
                refusal = RequestError(500, f"the server failed on this request; its log has the id {identity}")
            if not answer.status:
                await _send_refusal(answer, refusal, identity)
            elif failure is not None:
                raise  # the answer has begun: the server cuts the connection
        finally:
            self.service.metrics.in_flight -= 1
            self._record(scope, answer, time.monotonic() - started, failure)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        key = self.service.settings.api_key
        if key is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), key.encode()):
            raise RequestError(
                401, "the API key is missing or wrong; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    def _record(self, scope: Scope, answer: _Sending, seconds: float, failure: Exception | None) -> None:
        state = scope["state"]
        route = state.get("route", "other")
        self.service.metrics.answered(route, answer.status, seconds)
        job, model = state.get("job"), state.get("model")
        client = scope.get("client")
        log(
            "request",
            level=logging.ERROR if failure else logging.INFO,
            error=failure,
            id=state["id"],
            client=client[0] if client else None,
            method=scope["method"],
            path=scope["path"],
            status=answer.status,
            ms=round(1000 * seconds, 3),
            model=model.name if model else None,
            version=model.version if model else None,
            queue_ms=round(job.waited_ns / 1e6, 3) if job else None,
            batch=job.batch if job else None,
            bytes_in=state.get("bytes_in"),
            bytes_out=answer.size,
            error_message=answer.refused,
        )


class _Sending:
    """``send`` of ASGI, which adds the id and remembers what was sent."""

    def __init__(self, send: Send, identity: str, service: Service) -> None:
        self._send, self._service = send, service
        self._identity = identity.encode("latin-1")
        self.status = 0
        self.size = 0
        self.refused: str | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._identity)]
            if self._service.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


async def _send_refusal(answer: _Sending, refusal: RequestError, identity: str) -> None:
    answer.refused = str(refusal)
    body = json.dumps({"error": str(refusal), "id": identity}, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refusal.headers}
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await answer({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await answer({"type": "http.response.body", "body": body})
