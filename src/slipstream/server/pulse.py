"""The pulse of the engine process: what its steps did, as counters and gauges for the front.

Owns the counters. Written by the loop's thread, read by the thread that sends beats; single numbers, so no lock is needed. Must
not decide anything: whether the engine is ill is seen by the front, from outside.
"""

import time
from collections import deque
from collections.abc import Callable
from itertools import takewhile

from slipstream.engine.core import Core
from slipstream.engine.limit import Limit
from slipstream.engine.meter import Meter, StepRecord
from slipstream.server.messages import Beat
from slipstream.step import Executor, Plan, Result

WINDOW = 2.0  # seconds over which the present speed is taken
KEEP = 4096  # steps remembered between two beats at most


class Pulse(Meter):
    """A meter that counts since the start and remembers the latest steps only."""

    def __init__(self) -> None:
        super().__init__(keep=KEEP)
        self.count = self.made = self.failures = 0
        self.busy = self.ideal = 0.0
        self._fresh: deque[StepRecord] = deque(maxlen=KEEP)
        self._lately: deque[tuple[float, int, float, float]] = deque(maxlen=KEEP)  # (when, tokens, seconds, ideal seconds)

    def record(self, plan: Plan, result: Result, seconds: float) -> StepRecord:
        step = super().record(plan, result, seconds)
        self.count += result.passes
        self.made += step.tokens * result.passes
        self.busy += seconds
        self._fresh.extend(self.steps[-result.passes :])
        return step

    def beat(self, core: Core, limit: Limit | None, working: bool) -> Beat:
        """The state of this moment. Called by one thread only."""
        fresh = [self._fresh.popleft() for _ in range(len(self._fresh))]
        now = time.monotonic()
        for step in fresh:
            ideal = limit.seconds(step) if limit is not None else 0.0
            self.ideal += ideal
            self._lately.append((now, step.tokens, step.seconds, ideal))
        last = list(takewhile(lambda entry: now - entry[0] < WINDOW, reversed(self._lately)))
        tokens, seconds, ideal = (sum(entry[part] for entry in last) for part in (1, 2, 3))
        stats, pages = core.scheduler.stats, core.scheduler.options.pages
        return Beat(
            steps=self.count,
            working=working,
            running=stats.running,
            waiting=stats.waiting,
            used=1 - (stats.free_pages + stats.idle_pages) / pages,
            cached_share=stats.idle_pages / pages,
            busy=self.busy,
            ideal=self.ideal,
            made=self.made,
            hits=stats.hits,
            preemptions=stats.preemptions,
            failures=self.failures,
            recent=[step.seconds for step in fresh],
            speed=tokens / seconds if seconds else 0.0,
            roof=tokens / ideal if ideal else 0.0,
            chances=self.tally.steps,
            drafts=self.tally.drafts,
            drafted=self.tally.drafted,
            accepted=self.tally.accepted,
            accepted_at=list(self.tally.accepted_at),
            drafting=self.tally.drafting,
        )


class Doorman:
    """An Executor that tells who is let in, and when, before it passes the plan on.

    Args:
        executor: does the work.
        seated: called with (request, tokens that needed no computing) when a request gets its seat.
        look: called with each plan before it runs; returns the plan to run.
    """

    def __init__(self, executor: Executor, seated: Callable[[int, int], None], look: Callable[[Plan], Plan]):
        self._executor, self._seated, self._look = executor, seated, look

    def launch(self, plan: Plan) -> None:
        starts = {chunk.request: chunk.start for chunk in plan.chunks} if plan.admitted else {}
        for admission in plan.admitted:
            self._seated(admission.request, starts.get(admission.request, 0))
        self._executor.launch(self._look(plan))

    def finish(self) -> Result:
        return self._executor.finish()

    def reset(self) -> None:
        self._executor.reset()

    def close(self) -> None:
        self._executor.close()
