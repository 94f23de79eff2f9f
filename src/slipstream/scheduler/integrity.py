"""Whether what is known of requests contradicts itself; for tests, at any moment between two calls of the scheduler."""

from collections.abc import Collection, Sequence

from slipstream.scheduler.request import Request, State


def check_requests(running: Sequence[Request], waiting: Sequence[Request], known: Collection[int], seats: int) -> None:
    """Raises AssertionError unless these are all requests that are known, each in a state that it can be in."""
    assert sorted(request.number for request in (*running, *waiting)) == sorted(known)
    assert len(running) <= seats
    for request in running:
        assert request.state is State.RUNNING and 0 <= request.cached < len(request.tokens) <= request.limit
        assert request.prompt_len <= len(request.tokens) <= request.length <= request.limit
        assert request.cached <= request.next <= request.length
        assert request.planned or (request.next, request.length) == (request.cached, len(request.tokens))
    for request in waiting:
        assert request.state is State.WAITING and request.table is None and request.cached == 0
