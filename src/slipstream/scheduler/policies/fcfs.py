"""First come, first served."""

from slipstream.scheduler.request import Request

STEADY = True


def key(request: Request, now: float) -> float:
    """Time of arrival."""
    return request.arrival
