"""Answers that end when their client does: server-sent events, and bodies that take a while.

Owns what happens on the connection: the events' frame, a client that leaves, a client that reads nothing. What the events say is
the business of the routes.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from slipstream.base import log
from slipstream.server.errors import ApiError

DONE = b"data: [DONE]\n\n"
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
LOOKS = 4  # at a client, in the time of its patience
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


def event(body: Any) -> bytes:
    """One server-sent event."""
    try:
        text = _encode(body)
    except UnicodeEncodeError:  # half of a surrogate pair, as a name given on the command line may hold
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b"data: %b\n\n" % text


class EventStream(Response):
    """A response of server-sent events.

    Args:
        events: frames to send, without the last one. An ApiError in the middle becomes an event, for the status is out already.
        ended: called once with why it ended: "done", "client", "slow_reader" or "error".
        patience: seconds in which the client must read something of what waits for it.
    """

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[str], None], patience: float):
        self._events, self._ended, self._patience = events, ended, patience
        self._since: float | None = None  # when the write that has not ended yet began
        self.status_code, self.background = 200, None
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = "error"
        tasks = [asyncio.ensure_future(work) for work in (self._write(send), _gone(receive), self._stuck())]
        writing, leaving, stuck = tasks
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = writing.result() if writing.done() else "client" if leaving.done() else "slow_reader"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._ended(reason)

    async def _write(self, send: Send) -> str:
        reason = "done"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for frame in self._events:
                    await self._frame(send, frame)
                await self._frame(send, DONE, last=True)
            except ApiError as error:
                reason = "error"
                await self._frame(send, event(error.body), last=True)
        except OSError:
            return "client"
        return reason

    async def _frame(self, send: Send, frame: bytes, last: bool = False) -> None:
        self._since = time.monotonic()
        await send({"type": "http.response.body", "body": frame, "more_body": not last})  # waits where the client is too slow
        self._since = None

    async def _stuck(self) -> None:
        """Returns when the client has read nothing for too long. Looked at from outside: a timer for each event would cost more than
        sending it."""
        while self._since is None or time.monotonic() - self._since < self._patience:
            await asyncio.sleep(self._patience / LOOKS)
        log.get(__name__).warning("a client read nothing for %g s; its request was ended", self._patience)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Does `work`, unless the client leaves first.

    Raises:
        ClientGone: it left; the work was cancelled.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
