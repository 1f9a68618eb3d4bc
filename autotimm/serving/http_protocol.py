"""uvicorn's HTTP connection with the deadlines and limits that it lacks: headers, refused bodies, slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from autotimm.serving.settings import ServerSettings

_LINGER_SECONDS = 5.0
"""How long the rest of a body that was refused is read and thrown away: a client that sends without listening would
find a closed connection in place of the answer."""
_GRACE_SECONDS = 0.3
"""How long an idle connection outlives SIGTERM: a request may be on its way on it."""


class Connection(HttpToolsProtocol):
    """One connection. ``settings`` is set by :func:`connections_with`."""

    settings: ServerSettings

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._header_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._header_bytes = 0
        self._body_ended = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse it where there are too many, else wait for its first request."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse("503 Service Unavailable", "the server has as many connections as it may; come again later")
            return
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every timer."""
        for timer in (self._header_timer, self._linger_timer, self._write_timer):
            _stop(timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of the headers; the parser would keep any amount."""
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > self.settings.max_header_bytes:
                self._refuse("431 Request Header Fields Too Large", "the headers are too large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope["state"]["gone"] = self.transport.is_closing
        self._in_headers, self._header_bytes, self._body_ended = True, 0, False
        self._wait_for_headers()

    def on_headers_complete(self) -> None:
        """The request is understood; its body may follow."""
        _stop(self._header_timer)
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The end of the body."""
        self._body_ended, self._header_bytes = True, 0
        _stop(self._linger_timer)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is handed to the transport; the client may still be sending, or not reading."""
        super().on_response_complete()
        if self.cycle.response_complete and not self._body_ended and not self.transport.is_closing():
            self._linger_timer = self._later(_LINGER_SECONDS, self.transport.close)
        if self.transport.get_write_buffer_size():
            self._watch_reader()

    def pause_writing(self) -> None:
        """The client does not read; it has so long."""
        self._watch_reader()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        _stop(self._write_timer)
        super().resume_writing()

    def _watch_reader(self) -> None:
        """Cut the connection unless its buffer is empty in time."""
        _stop(self._write_timer)
        self._write_timer = self._later(self.settings.write_timeout, self._cut_slow_reader)

    def shutdown(self) -> None:
        """Let a request in flight end; wait a moment for one that may be on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
        else:
            self.loop.call_later(_GRACE_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._body_ended and not self.transport.is_closing():  # else a request has begun to come
            super().shutdown()

    def _cut_slow_reader(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _wait_for_headers(self) -> None:
        _stop(self._header_timer)
        self._header_timer = self._later(self.settings.header_timeout, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._refuse("408 Request Timeout", "the headers did not arrive in time")

    def _refuse(self, status: str, message: str) -> None:
        """Answer without the application, unless another answer is under way, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = f'{{"error": "{message}"}}'
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            retry = "retry-after: 1\r\n" if status.startswith("503") else ""
            self.transport.write(f"{head}{retry}connection: close\r\n\r\n{body}".encode())
        self.transport.close()

    def _later(self, seconds: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, call)


def connections_with(settings: ServerSettings) -> type[Connection]:
    """The class of connections that keep to these settings."""
    return type("Connection", (Connection,), {"settings": settings})


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
