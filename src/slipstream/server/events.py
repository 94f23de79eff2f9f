"""Answers that end when their client does: server-sent events, and bodies that take a while.

Owns what happens on the connection: the events' frame, a client that leaves, a client that reads nothing. What the events say is
the business of the routes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from slipstream.base import log
from slipstream.server.errors import ApiError

DONE = b"data: [DONE]\n\n"
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


def event(body: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


class EventStream(Response):
    """A response of server-sent events.

    Args:
        events: frames to send, without the last one. An ApiError in the middle becomes an event, for the status is out already.
        ended: called once with why it ended: "done", "client", "slow_reader" or "error".
        patience: seconds in which the client must read something of what waits for it.
    """

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[str], None], patience: float):
        self._events, self._ended, self._patience = events, ended, patience
        self.status_code, self.background = 200, None
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = "error"
        writing, leaving = asyncio.ensure_future(self._write(send)), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            reason = writing.result() if writing.done() else "client"
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)
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
        except TimeoutError:
            log.get(__name__).warning("a client read nothing for %g s; its request was ended", self._patience)
            return "slow_reader"
        except OSError:
            return "client"
        return reason


    async def _frame(self, send: Send, frame: bytes, last: bool = False) -> None:
        async with asyncio.timeout(self._patience):  # waits where the client is too slow; wait_for may lose a cancellation
            await send({"type": "http.response.body", "body": frame, "more_body": not last})


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
