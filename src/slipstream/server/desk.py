"""The desk: where a request of the front waits for room, is sent to the engine and comes back as an answer.

Owns the count of texts under way and the refusal when there are too many. Routes say what is asked and in which shape it goes
back; the link carries it.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request

from slipstream.server.errors import ApiError, bad, json_response
from slipstream.server.events import EventStream, event, unless_gone
from slipstream.server.link import Link, State
from slipstream.server.messages import Accepted, Generate
from slipstream.server.metrics import Metrics
from slipstream.server.settings import Settings
from slipstream.server.shapes import Shape
from slipstream.server.streams import Stream


class Desk:
    """What all routes share.

    Args:
        settings: names and bounds.
        on_gone: called when the engine has failed for good.

    Attributes:
        draining: nothing new is taken in.
        started: Unix seconds.
    """

    def __init__(self, settings: Settings, on_gone: Callable[[], None]):
        self.settings = settings
        self.metrics = Metrics(settings.name)
        self.link = Link(settings, self.metrics, on_gone)
        self.draining = False
        self.started = int(time.time())

    def check_model(self, name: str | None) -> None:
        """There is one model; another name is an error."""
        if name is not None and name != self.settings.name:
            raise ApiError(404, "model_not_found", f"model={name[:200]!r}: this server has {self.settings.name!r}", "model")

    def check_open(self) -> None:
        """Raises ApiError (503) while nothing can be served."""
        if self.draining:
            raise ApiError(503, "server_draining", "the server is about to stop and takes no new requests")
        if self.link.state is not State.SERVING:
            raise self.link.unavailable()
        if not self.link.well:
            raise ApiError(503, "engine_unavailable", f"the engine has made no progress for {self.link.silence:.1f} s")

    def check_room(self, texts: int, field: str) -> None:
        """Raises ApiError: 429 if too many wait already, 400 if so many never fit."""
        most = self.link.hello.max_batch + self.settings.max_queue
        if texts > most:
            raise bad(f"{field}: {texts} texts in one request; this server takes {most}", field)
        if self.link.texts + texts > most:
            self.metrics.refused("server_overloaded")
            waiting = max(self.link.texts - self.link.hello.max_batch, 0)
            queue = f"{waiting} texts are waiting already, of max_queue={self.settings.max_queue}"
            raise ApiError(429, "server_overloaded", f"{queue}; try again in a moment")

    async def answer(
        self, request: Request, order: Generate, shape: Callable[[Accepted], Shape], *, stream: bool, with_usage: bool
    ) -> Any:
        """Does an order and answers the client, at once or as a stream. A client that leaves ends it."""
        source = await unless_gone(request, self.link.submit(order))
        form = shape(source.accepted.result())
        if stream:
            return EventStream(_events(source, form, with_usage), lambda reason: self.link.end(source, reason), self.settings.write_timeout)
        try:
            pieces = await unless_gone(request, _collect(source, form))
        finally:
            self.link.end(source)
        return json_response(form.answer(pieces))


async def _collect(source: Stream, form: Shape) -> list[list[Any]]:
    """All pieces of each text."""
    texts: list[list[Any]] = [[] for _ in range(source.texts)]
    async for batch in source.batches():
        for piece in batch:
            form.usage.add(piece, form.samples)
            texts[piece.index].append(piece)
    return texts


async def _events(source: Stream, form: Shape, with_usage: bool) -> AsyncIterator[bytes]:
    """One event per choice and delivery."""
    extra = {"usage": None} if with_usage else {}
    for choice in form.opening():
        yield event({**form.chunk([choice]), **extra})
    async for batch in source.batches():
        for piece in batch:
            form.usage.add(piece, form.samples)
            for choice in form.choices(piece):
                yield event({**form.chunk([choice]), **extra})
    if with_usage:
        yield event({**form.chunk([]), "usage": form.usage.json()})
