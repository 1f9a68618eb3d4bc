"""Running the application: a socket, uvicorn, signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from autotimm.runtime.errors import ConfigError
from autotimm.serving.gate import Gate
from autotimm.serving.http_protocol import connections_with

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn, which at SIGTERM and Ctrl-C finishes the requests that it has, and returns.

    Args:
        app: of :func:`autotimm.serving.app.create_app`.
        on_ready: called when the socket is open.
    """

    def __init__(self, app: Gate, on_ready: Callable[[], object] = lambda: None) -> None:
        settings = app.service.settings
        super().__init__(
            uvicorn.Config(
                app,
                http=connections_with(settings),
                ws="none",
                lifespan="on",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(1, round(settings.idle_timeout)),
                timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
            )
        )
        self._service, self._on_ready = app.service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without losing those who are connected but not accepted yet: the system would reset them."""
        loop = asyncio.get_running_loop()
        late = [accepted for listening in sockets or () for accepted in _accept_all(listening)]
        for server in self.servers:
            server.close()
        for accepted in late:
            await loop.connect_accepted_socket(self._connection, accepted)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: finish what there is. The second: end now."""
        if self.should_exit:
            self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Not ready any more; end when every request has its answer."""
        self._service.draining = True
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but without raising the signals again at the end: all is done then, and the status is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _accept_all(listening: socket.socket) -> Iterator[socket.socket]:
    while True:
        try:
            accepted, _ = listening.accept()
        except ConnectionAbortedError:  # it has gone again
            continue
        except OSError:  # none is left
            return
        accepted.setblocking(False)
        yield accepted


def bind(host: str, port: int) -> socket.socket:
    """A socket for a server, which does not listen yet.

    Args:
        host: a name or an address of this machine.
        port: 0 takes any that is free.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken or reserved.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: is not the name or address of this machine") from error
    # asyncio sends without delay (TCP_NODELAY) only where the protocol is named; else an answer, which is two writes,
    # waits for the acknowledgement of its first part: 40 ms on Linux
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where this option would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is in use; choose another with --port, or --port 0 for any that is free"
            ) from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"port {port} is reserved for the system; choose one from 1024 on with --port") from error
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return bound


def run_server(app: Gate, bound: socket.socket, on_ready: Callable[[], object] = lambda: None) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        app: of :func:`autotimm.serving.app.create_app`.
        bound: of :func:`bind`; closed at the end.
        on_ready: called when requests can come.
    """
    Server(app, on_ready).run(sockets=[bound])
