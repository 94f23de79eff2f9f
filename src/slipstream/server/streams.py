"""Streams: what the front knows of one request under way. Filled by the link, emptied by the route that answers the client.

Owns the waiting pieces of a request and its times. What waits for a slow reader is bounded by the request itself (its texts
cannot exceed the context), and events.py ends a request whose client reads nothing at all.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from slipstream.server.errors import ApiError
from slipstream.server.messages import Accepted, Piece, Scored
from slipstream.server.metrics import Metrics


class Stream:
    """One request of the front, from its order to its last piece.

    Args:
        id: its number on the wire.
        texts: how many texts it makes (prompts times n).
        metrics: where its times go.
    """

    def __init__(self, id: int, texts: int, metrics: Metrics):
        self.id, self.texts = id, texts
        self.accepted: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._metrics = metrics
        self._arrived = time.monotonic()
        self._last: dict[int, float] = {}  # when each text last grew
        self._made: dict[int, int] = {}
        self._pieces: list[Piece] = []
        self._news = asyncio.Event()
        self._failure: ApiError | None = None
        self._open = texts

    @property
    def finished(self) -> bool:
        return self._open == 0 or self._failure is not None

    def put(self, piece: Piece) -> None:
        """Takes news of one text in; times are taken here, so that a slow client does not lengthen them."""
        if self._failure is not None:
            return
        if piece.finish_reason == "error":
            self.fail(ApiError(500, "engine_error", "a step of the engine failed while this request ran; it may be sent again"))
            return
        self._observe(piece)
        self._pieces.append(piece)
        self._open -= piece.finish_reason is not None
        self._news.set()

    def fail(self, error: ApiError) -> None:
        """Ends the stream: before it was accepted, or in the middle."""
        if self.finished:
            return
        self._failure = error
        if self.accepted.done():
            self._metrics.ended("error")
        else:
            self.accepted.set_exception(error)
            self.accepted.exception()  # seen: whoever waited may have gone
        self._news.set()

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """All that has come since the last look, one piece for each text, until all texts have ended.

        Raises:
            ApiError: the engine failed in the middle.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            pieces, self._pieces = self._pieces, []
            if pieces:
                yield merged(pieces)
            if self._failure is not None:
                raise self._failure
            if self._open == 0 and not self._pieces:
                return

    def _observe(self, piece: Piece) -> None:
        now, metrics, index = time.monotonic(), self._metrics, piece.index
        if piece.queued is not None:
            metrics.queue.observe(piece.queued)
        if piece.tokens:
            if index in self._last:
                metrics.gap.observe((now - self._last[index]) / piece.tokens)
            else:
                metrics.first.observe(now - self._arrived)
            self._last[index] = now
            self._made[index] = self._made.get(index, 0) + piece.tokens
            metrics.made.inc(piece.tokens)
        if piece.finish_reason is not None:
            metrics.whole.observe(now - self._arrived)
            metrics.length.observe(self._made.get(index, 0))
            metrics.ended(piece.finish_reason)


def merged(pieces: list[Piece]) -> list[Piece]:
    """One piece for each text: a reader who has fallen behind catches up with fewer, larger ones."""
    if len(pieces) == 1:
        return pieces
    texts: dict[int, list[Piece]] = {}
    for piece in pieces:
        texts.setdefault(piece.index, []).append(piece)
    return [own[0] if len(own) == 1 else _joined(own) for own in texts.values()]


def _joined(pieces: list[Piece]) -> Piece:
    seated = next((piece for piece in pieces if piece.queued is not None), pieces[0])
    return Piece(
        pieces[0].id,
        pieces[0].index,
        "".join(piece.text for piece in pieces),
        sum(piece.tokens for piece in pieces),
        _all([piece.logprobs for piece in pieces]),
        _all([piece.scores for piece in pieces]),
        pieces[-1].finish_reason,
        seated.queued,
        seated.cached,
        pieces[-1].vector,
        (sum(piece.predicted[0] for piece in pieces), sum(piece.predicted[1] for piece in pieces)),
    )


def _all(lists: list[list[Scored] | None]) -> list[Scored] | None:
    return [entry for one in lists if one is not None for entry in one] if any(one is not None for one in lists) else None
