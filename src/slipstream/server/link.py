"""The link: the front's end of the sockets, and the engine process behind it.

Owns the process (start, watch, restart, end), the private folder of the sockets, and which stream a message is for. Must not know
HTTP; errors are ApiErrors because that is what streams end with.
"""

import asyncio
import itertools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from slipstream.base import log
from slipstream.server.errors import ApiError, bad
from slipstream.server.health import Health
from slipstream.server.messages import (
    Abort,
    Accepted,
    Beat,
    Failed,
    Generate,
    Hello,
    Message,
    Pieces,
    Refused,
    Stop,
    Text,
    Tokens,
    decode_news,
    encode,
)
from slipstream.server.metrics import Metrics
from slipstream.server.settings import Settings
from slipstream.server.streams import Stream

TICK = 0.1  # seconds between two looks at the engine
LATE = 0.5  # a look that comes this much too late means that we were stopped, not the engine
RESTARTS, RESTART_WINDOW = 3, 60.0  # failures within so many seconds, after which a restart is of no use


class State(Enum):
    LOADING = "loading"
    SERVING = "serving"
    GONE = "gone"


class Link:
    """The engine process and the way to it.

    Args:
        settings: what to load, when to give up.
        metrics: where beats go.
        on_gone: called once when the engine has failed for good.
    """

    def __init__(self, settings: Settings, metrics: Metrics, on_gone: Callable[[], None]):
        self.settings, self.metrics, self._on_gone = settings, metrics, on_gone
        self.state = State.LOADING
        self.hello: Hello | None = None
        self.beat: Beat | None = None
        self.failure = ""  # why the engine is gone
        self.expected = False  # the failure is an error of the user's, not of ours
        self.process: subprocess.Popen | None = None
        self.texts = 0  # texts under way
        self._streams: dict[int, Stream] = {}
        self._replies: dict[int, asyncio.Future] = {}
        self._ids = itertools.count(1)
        self._health: Health | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS)
        self._context = zmq.asyncio.Context()
        self._tasks: list[asyncio.Task] = []

    # The process

    def start(self) -> None:
        """Starts the engine process; the state is LOADING until it says Hello."""
        self.state, self.hello, self._health = State.LOADING, None, None
        self._folder = Path(tempfile.mkdtemp(prefix="slipstream-"))  # mode 0700: nobody else can connect
        self._orders = self._socket(zmq.PUSH, "orders")
        self._news = self._socket(zmq.PULL, "news")
        told = {"model": self.settings.model, "engine": self.settings.engine, "folder": str(self._folder)}
        command = [sys.executable, "-m", "slipstream.server.engine"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)  # its end of file tells the engine that we are gone
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    async def close(self) -> None:
        """Ends the engine process, gently if it can still hear."""
        self._stop_tasks()
        if self.process is not None and self.process.poll() is None:
            if self.state is State.SERVING and self.well:
                self._orders.send(encode(Stop()))
                for _ in range(20):
                    if self.process.poll() is not None:
                        break
                    await asyncio.sleep(TICK)
            self.kill()
        self._close_sockets()
        self._context.term()

    def kill(self) -> None:
        """Ends the engine process at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def well(self) -> bool:
        """Whether the engine serves and makes progress."""
        return self.state is State.SERVING and self._health.well(time.monotonic())

    @property
    def silence(self) -> float:
        """Seconds since it was last seen to be well."""
        return self._health.silence(time.monotonic()) if self._health is not None else 0.0

    # Requests

    async def submit(self, order: Generate) -> Stream:
        """Sends an order and waits until it is accepted.

        Raises:
            ApiError: it is refused, or there is no engine to take it.
        """
        stream = Stream(order.id, max(len(order.prompts), 1) * order.params.n, self.metrics)
        self._streams[order.id] = stream
        self.texts += stream.texts
        try:
            await self._send(order)
            accepted = await stream.accepted
        except BaseException:
            self.end(stream)
            raise
        for length in accepted.prompt_tokens:
            self.metrics.read.inc(length)
            self.metrics.prompt_length.observe(length)
        return stream

    async def ask(self, order: Any) -> Any:
        """Sends an order that is answered by one message."""
        reply = self._replies[order.id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(order)
            return await reply
        finally:
            del self._replies[order.id]

    def end(self, stream: Stream, reason: str = "client") -> None:
        """Forgets a stream; if it has not finished, its texts end before the engine's next step."""
        if self._streams.pop(stream.id, None) is None:
            return
        self.texts -= stream.texts
        if not stream.finished and self.state is State.SERVING:
            self.metrics.aborted(reason)
            self._orders.send(encode(Abort(stream.id)))  # goes out now or is queued by the socket

    def next_id(self) -> int:
        return next(self._ids)

    def fail_all(self, error: ApiError) -> None:
        """Ends all that is under way with an error."""
        for stream in self._streams.values():
            stream.fail(error)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(error)

    # Inside

    def _socket(self, kind: int, name: str) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(f"ipc://{self._folder}/{name}")
        return socket

    async def _send(self, message: Message) -> None:
        if self.state is not State.SERVING:
            raise self.unavailable()
        try:
            data = encode(message)
        except (UnicodeEncodeError, OverflowError, RecursionError, TypeError) as error:
            raise bad(f"the request holds what cannot be text or a number: {error}") from error
        await self._orders.send(data)

    def unavailable(self) -> ApiError:
        """Why nothing can be served now."""
        if self.state is State.LOADING:
            return ApiError(503, "model_loading", "the model is being loaded; try again in a moment")
        return ApiError(503, "engine_unavailable", f"the engine is gone: {self.failure}")

    async def _listen(self) -> None:
        while True:
            self._hear(decode_news(await self._news.recv()))

    def _hear(self, news: Any) -> None:
        if isinstance(news, Pieces):
            for piece in news.items:
                stream = self._streams.get(piece.id)
                if stream is not None:
                    stream.put(piece)
        elif isinstance(news, Beat):
            self.beat = news
            self.metrics.beat(news)
            if self._health is not None:
                self._health.beat(news, time.monotonic())
        elif isinstance(news, Accepted):
            stream = self._streams.get(news.id)
            if stream is not None and not stream.accepted.done():
                stream.accepted.set_result(news)
        elif isinstance(news, Refused):
            self._refuse(news)
        elif isinstance(news, Tokens | Text):
            reply = self._replies.get(news.id)
            if reply is not None and not reply.done():
                reply.set_result(news)
        elif isinstance(news, Hello):
            self.hello, self.state = news, State.SERVING
            self.metrics.verified_by(news.verify, news.exact)
            self._health = Health(news.step, time.monotonic())
            shutil.rmtree(self._folder, ignore_errors=True)  # both ends are connected; nobody needs to find them any more
        elif isinstance(news, Failed):
            self.failure, self.expected = news.reason, news.expected

    def _refuse(self, news: Refused) -> None:
        error = ApiError(news.status, news.code, news.message, news.param)
        if news.id in self._streams:
            self._streams[news.id].fail(error)
        reply = self._replies.get(news.id)
        if reply is not None and not reply.done():
            reply.set_exception(error)

    async def _watch(self) -> None:
        """Looks after the engine until it is gone."""
        looked, sick = time.monotonic(), False
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if self._health is not None and now - looked > TICK + LATE:
                self._health.excuse(now - looked - TICK)
            looked = now
            if self.process.poll() is not None:
                await asyncio.sleep(TICK)  # its last words may be on the way
                self._gone(self.failure or f"its process ended ({_ending(self.process.returncode)})")
                return
            if self._health is None:
                continue
            silence = self._health.silence(now)
            if sick != (not self._health.well(now)):
                sick = not sick
                log.get(__name__).warning("the engine %s", f"has made no progress for {silence:.1f} s" if sick else "goes on")
            if silence > self.settings.stall:
                self.process.send_signal(signal.SIGUSR1)  # it writes where its threads are, if it still can
                await asyncio.sleep(TICK)
                self.kill()
                self._gone(f"it made no progress for {silence:.1f} s")
                return

    def _gone(self, reason: str) -> None:
        loaded, self.state, self.failure = self.state is State.SERVING, State.GONE, reason
        if not self.expected:  # what the user got wrong is told by run.py, once
            log.get(__name__).error("the engine is gone: %s", reason)
        self.fail_all(ApiError(500, "engine_error", f"the engine failed while this request ran: {reason}"))
        self._deaths.append(time.monotonic())
        often = len(self._deaths) == RESTARTS and self._deaths[-1] - self._deaths[0] < RESTART_WINDOW
        if self.settings.restart and loaded and not often:
            self._close_sockets()
            self._stop_tasks(but=asyncio.current_task())
            self.metrics.restarted()
            self.failure = ""
            self.start()
        else:
            self._on_gone()

    def _stop_tasks(self, but: asyncio.Task | None = None) -> None:
        for task in self._tasks:
            if task is not but:
                task.cancel()

    def _close_sockets(self) -> None:
        if self.process is not None:
            self._orders.close()
            self._news.close()
            self.process.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _ending(code: int) -> str:
    return f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
