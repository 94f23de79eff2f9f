"""Runs the server: listens, starts the engine, and comes to an end in one of four ways.

    first SIGTERM or SIGINT   readiness falls, new requests get 503, running ones finish (up to settings.drain); exit 0
    second one                exits at once, engine included; exit 128 + signal
    the engine cannot load    the reason on stderr; exit 2
    the engine fails          its requests get an error; exit 70, or with settings.restart it is started again
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import uvicorn

from slipstream.base import log
from slipstream.base.errors import InputError
from slipstream.server.app import make_app
from slipstream.server.desk import Desk
from slipstream.server.errors import ApiError
from slipstream.server.link import State
from slipstream.server.settings import EXIT_ENGINE, Settings

LAST_WORDS = 2  # seconds that connections have to deliver what was written, at the end
HEADERS = 64 * 2**10  # bytes


class Front(uvicorn.Server):
    """Uvicorn without its signal handlers; ours drain."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


class Server:
    """One run of `slipstream serve`.

    Args:
        settings: what to serve and where.
        tell: shows a line to whoever started the server.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None]):
        self.settings, self._tell = settings, tell
        self.desk = Desk(settings, self._engine_gone)
        config = uvicorn.Config(
            make_app(self.desk),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=LAST_WORDS,
            h11_max_incomplete_event_size=HEADERS,
            http="h11",
        )
        self.front = Front(config)
        self.code = 0

    async def run(self) -> int:
        """Serves until the end. Returns the exit code."""
        listener = listen(self.settings.host, self.settings.port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self.desk.link.start()
        announcing = asyncio.create_task(self._announce(listener))
        try:
            await self.front.serve(sockets=[listener])
        finally:
            announcing.cancel()
            await self.desk.link.close()
        return self.code

    async def _announce(self, listener: socket.socket) -> None:
        """Says what is served, once it is."""
        link = self.desk.link
        while link.state is State.LOADING:
            await asyncio.sleep(0.05)
        if link.state is State.SERVING:
            host, port = listener.getsockname()[:2]
            host = f"[{host}]" if ":" in host else host
            hello = link.hello
            self._tell(f"{self.settings.name}, {hello.profile}, context {hello.max_len}, {hello.max_batch} at once")
            self._tell(f"Slipstream serves at http://{host}:{port} (Ctrl-C stops)")

    def _signalled(self, number: int) -> None:
        if self.desk.draining:
            self.desk.link.kill()
            os._exit(128 + number)
        self.desk.draining = True
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        link, until = self.desk.link, time.monotonic() + self.settings.drain
        if link.texts:
            log.get(__name__).warning("stopping when %d texts are done (again to stop at once)", link.texts)
        while link.texts and time.monotonic() < until and link.state is State.SERVING:
            await asyncio.sleep(0.05)
        if link.texts:
            late = f"the server stopped before the text was done (drain={self.settings.drain:g} s)"
            link.fail_all(ApiError(503, "server_draining", late))
        self.front.should_exit = True

    def _engine_gone(self) -> None:
        link = self.desk.link
        self.code = 2 if link.expected else EXIT_ENGINE
        if link.expected:
            self._tell(f"error: {link.failure}")
        self.front.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends without delay only where TCP is named
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, socket.gaierror) as error:
        listener.close()
        raise InputError(f"host={host!r}, port={port}: cannot listen there ({error.strerror}); choose another --port or --host") from error
    listener.setblocking(False)
    return listener


def serve(settings: Settings, tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)) -> int:
    """Serves until stopped. Returns the exit code."""
    return asyncio.run(Server(settings, tell).run())
