"""Queue: requests in the order of a policy. It knows the policy's key and nothing of pages or steps."""

from bisect import insort
from collections.abc import Iterator
from types import ModuleType

from slipstream.scheduler.request import Request


class Queue:
    """A sorted list of requests.

    Args:
        policy: a module of scheduler/policies.
    """

    def __init__(self, policy: ModuleType):
        self._policy = policy
        self._items: list[Request] = []
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._items)

    def __getitem__(self, index: int) -> Request:
        return self._items[index]

    def order(self, now: float) -> None:
        """Brings the queue into the order of this moment; nothing to do if the policy's keys are steady."""
        self._now = now
        if not self._policy.STEADY:
            self._items.sort(key=self._key)

    def add(self, request: Request) -> None:
        insort(self._items, request, key=self._key)

    def remove(self, request: Request) -> None:
        self._items.remove(request)

    def pop(self, index: int = -1) -> Request:
        return self._items.pop(index)

    def _key(self, request: Request) -> tuple:
        return self._policy.key(request, self._now), request.number
