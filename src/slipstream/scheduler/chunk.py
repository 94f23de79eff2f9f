"""From a request and its share of a step to its chunk: trunk rows, draft, scores. Decides nothing about other requests."""

from slipstream.cache import PageTables
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request
from slipstream.step import Chunk, DraftTree
from slipstream.step.draft import EMPTY


def make_chunk(request: Request, rows: int, left: int, passes: int, tables: PageTables, options: SchedulerOptions) -> Chunk:
    """The rows of one request: its trunk, and as much of its draft as budget, pages and the end of the text allow.

    Args:
        rows: trunk rows, for which its table has pages.
        left: rows that the draft may have.
        passes: of a model, that the next draft may take.
    """
    tokens, start, end = request.tokens, request.cached, request.cached + rows
    sample = end == len(tokens) and request.params.max_tokens > 0
    room = request.limit - end - 1 if sample else 0  # tokens that may follow the next one
    draft = EMPTY
    if request.draft.tokens and room > 0 and left > 0:
        draft = _cut(request, end, min(left, options.max_draft), room, tables, options.vocab)
    return Chunk(
        request.number,
        start,
        (tokens[start],) if rows == 1 else tuple(tokens[start:end]),
        request.table.ids,
        sample,
        draft,
        _first_score(request, end) if request.params.prompt_logprobs is not None else None,
        min(options.max_draft, room - 1) if room > 1 else 0,
        passes,
    )


def _cut(request: Request, end: int, most: int, room: int, tables: PageTables, vocab: int) -> DraftTree:
    """The draft cut to `most` nodes and to the text's end, `room` tokens on, with pages from slot `end`. It may take idle
    pages, but never another request's."""
    nodes = min(most, room, tables.slots(request.table) - end)
    draft = request.draft.prune(nodes, room, vocab)
    grown = tables.grow(request.table, end + len(draft))
    assert grown, "slots were counted before"
    return draft


def _first_score(request: Request, end: int) -> int | None:
    """First trunk row that scores a prompt token not scored before."""
    wanted = request.scores_wanted and request.scored < end
    return request.scored - request.cached if wanted else None
