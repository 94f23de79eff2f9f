"""From requests and their shares of a step to chunks: trunk rows, drafts, scores. Decides nothing by itself: trunks come from the
scheduler, room from the budget, what pays from the controller."""

from collections.abc import Sequence

from slipstream.cache import PageTables
from slipstream.scheduler.budget import Budget
from slipstream.scheduler.controller import Controller
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request
from slipstream.step import Chunk, DraftTree
from slipstream.step.draft import EMPTY
from slipstream.step.plan import UNKNOWN


def make_chunks(
    trunks: Sequence[tuple[Request, int]],
    queue: bool,
    budget: Budget,
    controller: Controller | None,
    tables: PageTables,
    options: SchedulerOptions,
    several: int = 1,
) -> list[Chunk]:
    """The rows of every request, with what is left of the step for drafts: for those that pay, if there is a controller.

    Args:
        trunks: requests and their trunk rows, for which their tables have pages.
        queue: whether others wait for a seat.
        several: passes that the step may take if it checks no draft.
    """
    left, passes, shares = budget.drafts(request for request, _ in trunks), options.max_draft, None
    if controller is not None and trunks:
        shares, passes = ({}, controller.skip()) if not left and controller.idle else _pay(trunks, queue, left, controller, several)
    chunks = []
    for request, rows in trunks:
        most = left if shares is None else min(left, shares.get(request.number, 0))
        own = passes if controller is None or controller.drafts(request.number) else 0
        asks = controller is None or controller.looks(request.number) or (own > 0 and not controller.idle)
        longest = request.longest_draft(options.max_draft) if asks else 0
        chunk = make_chunk(request, rows, most, longest, own, tables, options)
        left -= len(chunk.draft.tokens)
        chunks.append(chunk)
    return chunks


def _pay(
    trunks: Sequence[tuple[Request, int]], queue: bool, most: int, controller: Controller, several: int
) -> tuple[dict[int, int], int]:
    """(nodes of each draft, passes for the next ones) that pay."""
    saying = [request for request, rows in trunks if rows == request.owed]
    drafting = [request for request in saying if request.draft.tokens]
    context = sum(request.length for request, _ in trunks) // len(trunks)
    shares = controller.share(drafting, len(saying), sum(rows for _, rows in trunks), context, most, queue, several)
    return shares, controller.passes([request.number for request in saying], context) if saying else 0


def make_chunk(
    request: Request, rows: int, left: int, longest: int, passes: int, tables: PageTables, options: SchedulerOptions
) -> Chunk:
    """The rows of one request: its trunk, and as much of its draft as budget, pages and the end of the text allow.

    Args:
        rows: trunk rows, for which its table has pages.
        left: rows that the draft may have.
        longest: nodes that the next draft may have.
        passes: of a model, that it may take.
    """
    tokens, start, end = request.tokens, request.next, request.next + rows
    sample = end == request.length and request.params.max_tokens > 0
    room = request.limit - end - 1 if sample else 0  # tokens that may follow the next one
    draft = EMPTY
    if request.draft.tokens and room > 0 and left > 0:
        draft = _cut(request, end, min(left, request.longest_draft(options.max_draft)), room, tables, options.vocab)
    return Chunk(
        request.number,
        start,
        tuple(tokens[start:end]) or (UNKNOWN,),
        request.table.ids,
        sample,
        draft,
        _first_score(request, end) if request.params.prompt_logprobs is not None else None,
        min(longest, room - 1) if room > 1 else 0,
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
    return request.scored - request.next if wanted else None
