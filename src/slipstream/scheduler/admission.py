"""Who may come in, and with which pages: prefix hits, sharing between the samples of one prompt, room for all the rest.
Decides when there is a seat; the scheduler decides how many there are."""

from collections.abc import Iterable

from slipstream.base.errors import CapacityError, InputError
from slipstream.cache import PageTables
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request, State
from slipstream.step import Admission


def check_fits(request: Request, options: SchedulerOptions, tables: PageTables) -> None:
    """Sets the prompt's length and the text's limit.

    Raises:
        InputError: the prompt is empty.
        CapacityError: the request could never run, however empty the engine is.
    """
    length, params = len(request.tokens), request.params
    if length == 0:
        raise InputError(f"request {request.number}: the prompt is empty; at least one token is needed")
    if length + min(params.max_tokens, 1) > options.max_len:
        raise CapacityError(
            f"prompt of {length} tokens: max_len={options.max_len} leaves no room for output; shorten the prompt or raise max_len"
        )
    request.prompt_len = length
    request.limit = min(length + params.max_tokens, options.max_len)
    request.unedited = _unedited(request)
    needed = tables.pages_for(max(length, request.limit - 1))  # nothing is computed on the last token
    if needed > options.pages:
        raise CapacityError(
            f"prompt of {length} tokens with max_tokens={params.max_tokens}: needs {needed} pages, the pool has {options.pages}; "
            "lower max_tokens or give the KV cache more memory"
        )


def owed(requests: Iterable[Request], tables: PageTables) -> int:
    """Pages that running requests have yet to get for the tokens they have now. They are left for them: a prompt that is
    begun is not stopped half-way by the next."""
    return sum(max(tables.pages_for(request.length) - len(request.table.pages), 0) for request in requests)


def _unedited(request: Request) -> bool:
    """Whether no processor has a hand in what is drawn."""
    params = request.params
    edited = request.banned or params.logit_bias or params.allowed_token_ids is not None or params.min_tokens
    return not edited and not params.frequency_penalty and not params.presence_penalty and params.repetition_penalty == 1


def waits_for_leader(request: Request) -> bool:
    """Whether the leader has yet to compute the prompt that this request shares."""
    leader = request.origin
    if leader is not None and leader.state is State.FINISHED:
        leader = request.origin = None  # it goes the ordinary way
    return leader is not None and (leader.table is None or leader.cached < request.prompt_len - 1)


def open_table(request: Request, tables: PageTables, spare: int) -> bool:
    """Gives the request a table, begun with what need not be computed. At least one token remains to be, and all whose
    scores are wanted.

    Returns:
        False, and nothing done, if there is no room for all its tokens beside `spare` pages.
    """
    if request.origin is not None:
        opened = tables.fork(request.origin.table, request.prompt_len - 1, len(request.tokens), spare)
    else:
        limit = request.scored if request.scores_wanted else len(request.tokens) - 1
        opened = tables.open(request.tokens, limit, spare)
    if opened is None:
        return False
    request.table, request.cached = opened
    request.settle()
    request.origin = None
    return True


def introduce(request: Request) -> Admission:
    """What the device side must know of it."""
    return Admission(
        request.number,
        tuple(request.tokens),
        request.prompt_len,
        request.params,
        request.seed,
        request.sample,
        request.banned,
        request.ends,
        request.prediction,
    )
