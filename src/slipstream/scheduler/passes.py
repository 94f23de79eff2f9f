"""Passes: how often a step of plain decoding is run before the host looks at what was drawn.

Owns this number. A pass more costs nothing but what the texts that end in between did not need, and time in which nobody is let in;
it saves what the host does in a step. So there are several while nobody could be let in, for steps that are short, as long as few rows
run on behind the end of their text. Texts do not change: a pass reads the token that the one before drew, with the noise of its position.

Guesses are no part of it: they are looked for when all passes are over. A step that checks some takes one pass, and so gives up what the
others save; that is counted where it is decided (scheduler/controller.py), which asks here what it would give up. Only where whoever
guesses can do so within a step are there passes that check guesses, rounds (worker/rounds.py).
"""

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from slipstream.cache import PageTables
from slipstream.cost import Pace, Work
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request
from slipstream.step import Chunk

Trunks = Sequence[tuple[Request, int]]  # requests and their trunk rows

COUNTS = (8, 4, 2)  # few, since a CPU records each of them as one
SPARED = 32  # rows among which one may run for nothing, since its text is as long as it may get
STREAMED, WHOLE = 0.02, 0.1  # seconds that they may take together, of all steps under way: while somebody reads along, and else


def most_passes(trunks: Trunks, pace: Pace | None, options: SchedulerOptions) -> int:
    """How often a step of these requests may be run if it checks no guess and pages are not short; at least once.

    Args:
        trunks: all that take part.
        pace: predicts the time of a step; None: it does not count.
        options: how many steps may be under way at a time, and how many requests may draw.
    """
    if not 0 < len(trunks) <= options.max_drawn or not all(_plain(request, rows) for request, rows in trunks):
        return 1
    left = sorted(request.limit - request.length for request, _ in trunks)
    counts = [count for count in COUNTS if _idle(left, count) * SPARED <= count * len(left)]
    return next((count for count in counts if _in_time(trunks, 1, count, pace, 1 + options.ahead)), 1)  # they come largest first


def _in_time(trunks: Trunks, rows: int, count: int, pace: Pace | None, steps: int = 1) -> bool:
    """Whether `steps` of so many passes with so many rows of each request are short enough together."""
    if pace is None:
        return True
    work = Work.of(((request.next, rows, ()) for request, _ in trunks), rows * len(trunks))
    return steps * count * pace.predict(work, count) <= (STREAMED if any(request.streamed for request, _ in trunks) else WHOLE)


def _idle(left: Sequence[int], count: int) -> int:
    """Rows of `count` passes that run for nothing, of requests that may say so much more, ascending."""
    return sum(count - more for more in left[: bisect_left(left, count)])


def passes(trunks: Trunks, chunks: list[Chunk], most: int, tables: PageTables, pace: Pace | None = None) -> int:
    """How often the step of these chunks is run, with pages for as many tokens of each request or for all that it may have.

    Args:
        trunks: requests and their trunk rows.
        chunks: theirs; those that get pages are replaced.
        most: what `most_passes` said.
        tables: of pages; idle ones are given up, but never another request's.
        pace: as for `most_passes`; what making guesses takes does not count.
    """
    if most > 1 and all(chunk.draft.again for chunk in chunks):
        return _rounds(trunks, chunks, most, tables, pace)
    if most > 1 and not any(_guessed(request, chunk) for (request, _), chunk in zip(trunks, chunks, strict=True)):
        for count in COUNTS:
            if count <= most and _grown(trunks, chunks, count, tables):
                return count
    return 1


def _rounds(trunks: Trunks, chunks: list[Chunk], most: int, tables: PageTables, pace: Pace | None) -> int:
    """The same where each pass checks guesses: all drafts become chains of one length, if several can be checked one after the other."""
    length = min(chunk.draft.trunk() for chunk in chunks)
    left = min(request.limit - request.length for request, _ in trunks)
    for count in COUNTS:
        if count > most or count * (length + 1) >= left or not _in_time(trunks, length + 1, count, pace):
            continue
        if _grown(trunks, chunks, count * (length + 1), tables):
            chunks[:] = [replace(chunk, draft=chunk.draft.prune(length, length, sys.maxsize)) for chunk in chunks]
            return count
    return 1


def _plain(request: Request, rows: int) -> bool:
    """Whether the host has nothing to do between a step of the request and its next: its only row draws, from logits that nobody edits,
    and nobody asks for its log-probability."""
    return rows == request.owed == 1 and request.unedited and request.params.logprobs is None and not request.scores_wanted


def _guessed(request: Request, chunk: Chunk) -> bool:
    """Whether guesses are checked, or may be looked for as soon as the text begins: it may be known from its first token on."""
    return bool(chunk.draft.tokens) or (chunk.draft_budget > 0 and request.length == request.prompt_len)


def _grown(trunks: Trunks, chunks: list[Chunk], count: int, tables: PageTables) -> bool:
    """Gives every request pages for `count` tokens more, if there are enough for all."""
    slots = [min(request.next + count, request.limit) for request, _ in trunks]
    missing = [tables.missing(request.table, most) for (request, _), most in zip(trunks, slots, strict=True)]
    if sum(missing) > tables.available:
        return False
    for at, (request, _) in enumerate(trunks):
        if missing[at]:
            tables.grow(request.table, slots[at])
            chunks[at] = replace(chunks[at], pages=request.table.ids)
    return True
