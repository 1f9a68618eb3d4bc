"""What a server may be told, with limits that suit a machine in reach of others."""

from __future__ import annotations

from dataclasses import dataclass

from autotimm.runtime.environment import usable_cpus
from autotimm.runtime.errors import ConfigError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServerSettings:
    """Queue, deadlines and limits of one server. Times are in seconds, sizes in bytes."""

    workers: int = 0
    """Threads that decode, run and encode; 0 is one a core."""
    queue_size: int = 64
    """Requests that may wait while every worker is busy; one more is answered 503."""
    max_batch: int = 1
    """Waiting requests that a worker may put into one run, where the artifact leaves the batch free. An artifact of a
    fixed batch always gathers that many, since it runs the whole batch anyway."""
    header_timeout: float = 10.0
    """From the first byte, or the connection, to the end of the headers."""
    body_timeout: float = 30.0
    """From the headers to the end of the body."""
    request_timeout: float = 60.0
    """From the headers to the answer, waiting included."""
    write_timeout: float = 30.0
    """How long a client may refuse to take more of its answer."""
    idle_timeout: float = 75.0
    """How long a connection is kept between two requests."""
    shutdown_timeout: float = 30.0
    """How long requests in flight may take after SIGTERM."""
    max_connections: int = 1000
    max_header_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * MEBIBYTE
    """Of one request, as sent and as decompressed."""
    max_json_bytes: int = 16 * MEBIBYTE
    """Of the JSON in a request for inference: as Python objects it takes up to twenty times as much."""
    max_pending_bytes: int = 512 * MEBIBYTE
    """Of all requests that are being read, waiting or worked on."""
    max_pixels: int = 50_000_000
    """Of an image, by its header."""
    api_key: str | None = None
    """Asked for on every path but health and the page, where it is set."""
    reload_seconds: float | None = None
    """How often the model files are looked at for a change; ``None`` is never."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"workers is {self.workers}, but must be at least 1 (or 0 for one a core)")
        for name in ("queue_size", "max_batch", "max_connections", "max_header_bytes", "max_body_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1")
        for name in ("header_timeout", "body_timeout", "request_timeout", "write_timeout", "idle_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be more than 0 seconds")
        if self.reload_seconds is not None and not self.reload_seconds > 0:
            raise ConfigError(f"reload_seconds is {self.reload_seconds}, but must be more than 0 (or None for never)")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("the API key is empty or holds characters that cannot stand in a header")

    @property
    def worker_count(self) -> int:
        """``workers``, or the cores that this process may use."""
        return self.workers or usable_cpus()
