"""Requests that are not answered with a result: the status, and a sentence that says why."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from autotimm.runtime.errors import ConfigError, ImageError


class RequestError(Exception):
    """A request that ends with an error status.

    Args:
        status: of HTTP.
        message: what happened and what to do; it is sent as ``{"error": message}``.
        headers: to add to the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class OverloadError(RequestError):
    """503: a limit of the whole server is reached; the client may come again.

    Args:
        message: which limit.
        retry_after: seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(503, message, {"Retry-After": str(retry_after)})


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete; nobody reads an answer."""


def request_error_of(error: BaseException) -> RequestError | None:
    """The refusal that an error stands for; ``None`` where the fault is the server's."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):  # a method that a path does not have
        return RequestError(error.status_code, error.detail, dict(error.headers or {}))
    if isinstance(error, ImageError):
        return RequestError(400, str(error))
    if isinstance(error, ConfigError):  # a shape that the artifact cannot run
        return RequestError(400, str(error))
    return None
