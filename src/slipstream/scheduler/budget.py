"""Budget: what one step may still take, in rows and in seconds. Owns how a step is divided between those who read along and those
who wait for a prompt; it must not know pages or who comes first.

Every running request is promised one row; a step of these alone is a plain one. Beyond that rows are given as long as the step's
predicted time stays within

    target             while a text that somebody reads along is being continued: this is the time between two of its tokens;
                       or STRETCH plain steps, where that is longer: on a machine too slow for the target, prompts get half of the
                       time, and drafts, which bring tokens closer together when they are right, are not given up
    PATIENCE * target  while there are only prompts: nobody waits for a token yet, but whoever arrives now waits for the step's end
    no limit           where nobody reads along (a batch that is returned as a whole), or there is no target

Prompts come before drafts, and get LEAST rows a step whatever the prediction says.
"""

from collections.abc import Collection, Iterable
from functools import cached_property

from slipstream.cost import Pace, Work
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request

PATIENCE = 10
STRETCH = 2
LEAST = 4


class Budget:
    """What is left of a step.

    Args:
        options: rows of a step, and the target.
        running: requests that are promised one row each.
        pace: predicts the time of a step; None where only rows count.
        streams: whether anybody reads along with any request, waiting ones included.

    Attributes:
        rows: rows left, those promised not among them.
    """

    def __init__(self, options: SchedulerOptions, running: Collection[Request], pace: Pace | None, streams: bool):
        self.rows = options.max_step_tokens - len(running)
        self._pace, self._running = pace, running
        self._target, self._longest = options.target_itl, options.max_draft
        self._timed = pace is not None and options.target_itl > 0 and streams
        self._least = LEAST
        self._work: Work | None = None

    def more(self, request: Request, wanted: int) -> int:
        """How many of `wanted` trunk rows beyond its first a running request may have."""
        return self._fit(request, request.next + 1, wanted)

    def take(self, request: Request, rows: int) -> None:
        """Gives them."""
        self._give(request, request.next + 1, rows)

    def opens(self, request: Request) -> bool:
        """Whether a waiting request may have at least one row, wherever in its tokens it begins."""
        if self.rows < 1 or not self._timed or self._least > 0:
            return self.rows > 0
        start = request.length - 1
        return self._pace.predict(self._with(1, start, 1, start)) <= self._limit

    def admit(self, request: Request, wanted: int) -> int:
        """Gives a request that was let in as many of `wanted` rows as it may have, at least one."""
        rows = max(1, self._fit(request, request.next, wanted, request.next))
        self._give(request, request.next, rows, request.next)
        return rows

    def drafts(self, requests: Iterable[Request]) -> int:
        """How many rows there are for all drafts of these requests together; they count as if they began at their mean length."""
        drafting = [request for request in requests if request.draft.tokens]
        most = min(sum(min(len(request.draft), request.longest_draft(self._longest)) for request in drafting), self.rows)
        if most < 1 or not self._timed:
            return max(most, 0)
        start = sum(request.length for request in drafting) // len(drafting)
        return self._pace.rows_within(self._limit, lambda rows: self._with(rows, start, rows), most)

    def _fit(self, request: Request, start: int, wanted: int, read: int = 0) -> int:
        most = min(wanted, self.rows)
        if most < 1 or not self._timed:
            return max(most, 0)
        fits = self._pace.rows_within(self._limit, lambda rows: self._with(rows, start, _sampled(request, start + rows), read), most)
        return max(fits, min(most, self._least))

    def _give(self, request: Request, start: int, rows: int, read: int = 0) -> None:
        self.rows -= rows
        if self._timed and rows:
            self._least -= rows
            self._work = self._with(rows, start, _sampled(request, start + rows), read)

    @cached_property
    def _plain(self) -> Work:
        """The promised rows, counted when first asked for: most steps have nothing else, and need no prediction."""
        sampled = sum(request.owed == 1 for request in self._running)
        return Work.of(((request.next, 1, ()) for request in self._running), sampled)

    @cached_property
    def _limit(self) -> float:
        """Seconds that the step may take."""
        if not any(request.streamed and request.owed == 1 for request in self._running):
            return PATIENCE * self._target
        return max(self._target, STRETCH * self._pace.predict(self._plain))

    def _with(self, rows: int, start: int, sampled: int, read: int = 0) -> Work:
        """The step's work with `rows` more, in a row from position `start`, and `read` positions that nobody else reads."""
        work = self._work or self._plain
        if rows == 0:
            return work
        read += work.read + rows
        keys = rows * start + rows * (rows + 1) // 2
        return Work(work.rows + rows, work.sampled + sampled, read, work.keys + min(keys, rows * read))


def _sampled(request: Request, end: int) -> int:
    return int(end == request.length)
