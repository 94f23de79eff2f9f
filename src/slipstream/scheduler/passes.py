"""Passes: how often a step of plain decoding is run before the host looks at what was drawn.

Owns this number. A pass more costs nothing but what the texts that end in between did not need, and time in which nobody is let in;
it saves what the host does in a step. So there are several while nobody waits, for steps that are short. Texts do not change: a pass
reads the token that the one before drew, with the noise of its position.
"""

from collections.abc import Sequence
from dataclasses import replace

from slipstream.cache import PageTables
from slipstream.cost import Pace, Work
from slipstream.scheduler.request import Request
from slipstream.step import Chunk

COUNTS = (8, 4, 2)  # few, since a device records each of them
STREAMED, WHOLE = 0.02, 0.1  # seconds that they may take together: while somebody reads along, and else


def passes(trunks: Sequence[tuple[Request, int]], chunks: list[Chunk], pace: Pace | None, tables: PageTables) -> int:
    """How often the step of these chunks may be run, with pages for as many tokens of each request; at least once.

    Args:
        trunks: requests and their trunk rows.
        chunks: theirs; those that get pages are replaced.
        pace: predicts the time of a step; None: it does not count.
        tables: of pages; idle ones are given up, but never another request's.
    """
    most = min((request.limit - len(request.tokens) for request, _ in trunks), default=0)
    if most < COUNTS[-1] or not all(_plain(chunk) for chunk in chunks):
        return 1
    if pace is not None:
        work = Work.of(((chunk.start, 1, ()) for chunk in chunks), len(chunks))
        time = STREAMED if any(request.streamed for request, _ in trunks) else WHOLE
        most = min(most, int(time / pace.predict(work)))
    for count in COUNTS:
        if count <= most and _grown(trunks, chunks, count, tables):
            return count
    return 1


def _plain(chunk: Chunk) -> bool:
    """Whether the host has nothing to do between this step of a request and its next."""
    return chunk.sample and len(chunk.trunk) == 1 and not chunk.draft.tokens and not chunk.draft_budget and chunk.score is None


def _grown(trunks: Sequence[tuple[Request, int]], chunks: list[Chunk], count: int, tables: PageTables) -> bool:
    """Gives every request pages for `count` tokens more, if there are enough for all."""
    missing = [tables.missing(request.table, request.cached + count) for request, _ in trunks]
    if sum(missing) > tables.available:
        return False
    for at, (request, _) in enumerate(trunks):
        if missing[at]:
            tables.grow(request.table, request.cached + count)
            chunks[at] = request.planned = replace(chunks[at], pages=request.table.ids)
    return True
