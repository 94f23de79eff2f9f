"""Where a text ends. Owns the order of the reasons: an end token, what whoever watches it says, its length."""

from collections.abc import Callable, Sequence

from slipstream.scheduler.request import Request

Watch = Callable[[int, int], str | None]


def append(request: Request, new: Sequence[int], watch: Watch | None) -> tuple[int, str | None]:
    """Makes tokens part of the text, up to the one that ends it if one does.

    Args:
        watch: called with (number, token) for every token that is part of the text, in order; may return a reason to end there.

    Returns:
        How many, and why it ends.
    """
    tokens, params = request.tokens, request.params
    ends = params.stop_token_ids if params.ignore_eos else (*request.ends, *params.stop_token_ids)
    for taken, token in enumerate(new, 1):
        tokens.append(token)
        if token in ends and len(tokens) - request.prompt_len >= params.min_tokens:
            return taken, "stop"  # such a token is not part of the text, so nobody watches it
        said = watch(request.number, token) if watch is not None else None
        if said is not None:
            return taken, said
        if len(tokens) >= request.limit:
            return taken, "length"
    return len(new), None
