"""Bodies of requests and responses: read against limits and deadlines, unpacked, packed."""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from starlette.datastructures import Headers
from starlette.types import Receive

from autotimm.serving.request_errors import ClientGoneError, OverloadError, RequestError

_WORTH_PACKING = 256
"""Bytes; a smaller answer fits in one packet as it is."""


class Budget:
    """Bytes of bodies that the server holds at the moment; used from the event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A share for one request, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.size


class Share:
    """What one request holds of a :class:`Budget`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def take(self, size: int) -> None:
        """Hold more.

        Raises:
            OverloadError: the bodies of all requests would be too large together.
        """
        if self._budget.held + size > self._budget.limit:
            raise OverloadError("the server holds as many bytes of other requests as it may; come again later")
        self._budget.held += size
        self.size += size


async def read_body(receive: Receive, headers: Headers, *, limit: int, deadline: float, share: Share) -> bytes:
    """The body of a request, as it was sent.

    Args:
        receive: of ASGI.
        headers: of the request.
        limit: bytes.
        deadline: in seconds of ``time.monotonic()``.
        share: of the bytes that all requests may hold.

    Raises:
        RequestError: 413 past the limit, 408 past the deadline.
        OverloadError: other requests hold too much.
        ClientGoneError: the connection ended in the middle.
    """
    declared = headers.get("content-length")
    if declared is not None and int(declared) > limit:  # the HTTP parser has seen that it is a number
        raise _too_large(limit, f"it has {declared} bytes")
    parts: list[bytes] = []
    size = 0
    with anyio.move_on_after(deadline - time.monotonic()) as scope:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit, "more came")
            share.take(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                break
    if scope.cancelled_caught:
        raise RequestError(
            408,
            f"the body did not arrive in time ({size} bytes of {declared or 'unknown'} came)",
            {"Connection": "close"},
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpacked(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo ``Content-Encoding``.

    Raises:
        RequestError: 415 for an encoding that is not known, 400 for damaged data, 413 past the limit.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity":
        return body
    if name in ("gzip", "x-gzip"):
        return _inflate(body, 16 + zlib.MAX_WBITS, limit)
    if name == "deflate":  # RFC 9110 means zlib's format; some clients send it bare
        is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] * 256 + body[1]) % 31 == 0
        return _inflate(body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, limit)
    raise RequestError(415, f"the Content-Encoding {encoding!r} is not known here; send gzip, deflate or none")


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    try:
        content = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, f"the compressed body is damaged: {error}") from error
    if len(content) > limit:
        raise _too_large(limit, "it unpacks to more")
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(400, "the compressed body is cut off, or something lies behind it")
    return content


def packed(body: bytes, accepted: str | None) -> tuple[bytes, str | None]:
    """A response in the encoding that the client would have, where that is worth it: the body, and its encoding."""
    if not accepted or len(body) < _WORTH_PACKING:
        return body, None
    qualities = {}
    for entry in accepted.lower().split(","):
        name, _, parameters = entry.partition(";")
        quality = re.search(r"q\s*=\s*([\d.]+)", parameters)
        qualities[name.strip()] = quality is None or quality[1].strip("0.") != ""
    if qualities.get("gzip"):
        return gzip.compress(body, compresslevel=1, mtime=0), "gzip"
    if qualities.get("deflate"):
        return zlib.compress(body, 1), "deflate"
    return body, None


def _too_large(limit: int, found: str) -> RequestError:
    return RequestError(413, f"the body may have {limit} bytes, but {found}")
