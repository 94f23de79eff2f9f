"""Budget: what one step may still take, in rows and in seconds. Owns how a step is divided between those who read along and those
who wait for a prompt; it must not know pages or who comes first.

Every running request is promised one row. Beyond that rows are given as long as the step's predicted time stays within

    target             while a text that somebody reads along is being continued: this is the time between two of its tokens
    PATIENCE * target  while there are only prompts: nobody waits for a token yet, but whoever arrives now waits for the step's end
    no limit           where nobody reads along (a batch that is returned as a whole), or there is no target

Prompts get LEAST rows a step whatever the time, or a target below the time of a plain step would stop them. Drafts come last, as
far as the target goes; where a plain step alone fills it, as long as they stretch that by no more than STRETCH, since drafts that are
right bring tokens closer together, not further apart.
"""

from collections.abc import Collection

from slipstream.cost import Pace, Work
from slipstream.scheduler.options import SchedulerOptions
from slipstream.scheduler.request import Request

PATIENCE = 10
LEAST = 16
STRETCH = 1.5


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
        self._seconds: float | None = None
        if pace is not None and options.target_itl and streams:
            decoding = any(request.streamed and request.owed == 1 for request in running)
            self._seconds = options.target_itl * (1 if decoding else PATIENCE)
        self._least = LEAST
        self._promised: Work | None = None
        self._work: Work | None = None

    def more(self, request: Request, wanted: int) -> int:
        """How many of `wanted` trunk rows beyond its first a running request may have."""
        return self._fit(request, request.cached + 1, wanted)

    def take(self, request: Request, rows: int) -> None:
        """Gives them."""
        self._give(request, request.cached + 1, rows)

    def opens(self, request: Request) -> bool:
        """Whether a waiting request may have at least one row, wherever in its tokens it begins."""
        if self.rows < 1 or self._seconds is None or self._least > 0:
            return self.rows > 0
        start = len(request.tokens) - 1
        return self._pace.predict(self._with(1, start, 1, start)) <= self._seconds

    def admit(self, request: Request, wanted: int) -> int:
        """Gives a request that was let in as many of `wanted` rows as it may have, at least one."""
        rows = max(1, self._fit(request, request.cached, wanted, request.cached))
        self._give(request, request.cached, rows, request.cached)
        return rows

    def drafts(self, requests: Collection[Request], wanted: int) -> int:
        """How many of `wanted` draft rows there are for these requests together."""
        most = min(wanted, self.rows)
        if most < 1 or self._seconds is None:
            return max(most, 0)
        seconds = max(self._seconds, STRETCH * self._pace.predict(self._begun()))
        start = sum(len(request.tokens) for request in requests) // len(requests)
        return self._pace.rows_within(seconds, lambda rows: self._with(rows, start, rows), most)

    def _fit(self, request: Request, start: int, wanted: int, read: int = 0) -> int:
        most = min(wanted, self.rows)
        if most < 1 or self._seconds is None:
            return max(most, 0)
        fits = self._pace.rows_within(self._seconds, lambda rows: self._with(rows, start, _sampled(request, start + rows), read), most)
        return max(fits, min(most, self._least))

    def _give(self, request: Request, start: int, rows: int, read: int = 0) -> None:
        self.rows -= rows
        if self._seconds is not None and rows:
            self._least -= rows
            self._work = self._with(rows, start, _sampled(request, start + rows), read)

    def _begun(self) -> Work:
        """The work of the promised rows, counted when first asked for: most steps have nothing else, and need no prediction."""
        if self._promised is None:
            sampled = sum(request.owed == 1 for request in self._running)
            self._promised = Work.of(((request.cached, 1, ()) for request in self._running), sampled)
        return self._promised

    def _with(self, rows: int, start: int, sampled: int, read: int = 0) -> Work:
        """The step's work with `rows` more, in a row from position `start`, and `read` positions that nobody else reads."""
        work = self._work or self._begun()
        if rows == 0:
            return work
        read += work.read + rows
        keys = rows * start + rows * (rows + 1) // 2
        return Work(work.rows + rows, work.sampled + sampled, read, work.keys + min(keys, rows * read))


def _sampled(request: Request, end: int) -> int:
    return int(end == len(request.tokens))
