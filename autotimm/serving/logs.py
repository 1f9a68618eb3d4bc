"""One JSON object a line on standard error: what a log collector reads without being told how."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import datetime, timezone
from typing import Any

LOGGER = logging.getLogger("autotimm.serving")


class JsonLines(logging.Formatter):
    """A record as one line: time (UTC), level, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write one line.

    Args:
        event: a word: ``request``, ``reload``.
        level: of :mod:`logging`.
        error: whose traceback is to be there.
        fields: whatever else; those that are ``None`` are left out.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    LOGGER.log(level, event, extra={"fields": known}, exc_info=error)


def log_to_stderr(*, requests: bool) -> None:
    """Set up the lines on standard error; without ``requests`` only what is not one of the many answers."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    if not requests:
        handler.addFilter(lambda record: record.levelno > logging.INFO or record.getMessage() != "request")
    for name, level in ((LOGGER.name, logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
