"""The meter: what the steps of a run did and how long they took.

Owns the records of a run. What the machine could have done is the business of limit.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.cost import Work
from slipstream.engine.tally import Tally
from slipstream.step import Plan, Result


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step.

    Attributes:
        work: what it was asked to do.
        tokens: tokens gained.
        requests: that took part.
        seconds: that it took; drafting: those of them in which the next drafts were made.
    """

    work: Work
    tokens: int
    requests: int
    seconds: float
    drafting: float = 0.0


class Meter:
    """Keeps the last `keep` steps of a model with these windows (`ModelSpec.windows`), and the tally of all drafts."""

    def __init__(self, windows: Sequence[int] = (), keep: int = 100_000):
        self.steps: list[StepRecord] = []
        self.tally = Tally()
        self.windows, self.keep = windows, keep

    def record(self, plan: Plan, result: Result, seconds: float) -> StepRecord:
        """Takes note of a step that took so many seconds; of one of several passes as of so many steps. Returns the last of them."""
        if len(self.steps) >= self.keep:
            del self.steps[: self.keep // 2]
        self.tally.record(plan, result)
        tokens, count = sum(len(outcome.tokens) for outcome in result.outcomes), result.passes
        first = work_of(plan, result, self.windows)
        for number in range(count):
            work = first if number == 0 else self._later(plan, result, first, number)
            self.steps.append(StepRecord(work, tokens // count, len(plan.chunks), seconds / count, result.drafting / count))
        return self.steps[-1]

    def _later(self, plan: Plan, result: Result, first: Work, number: int) -> Work:
        """The work of pass `number`, that of the first being known: every row sees one key more than in the pass before."""
        if self.windows:
            return work_of(plan, result, self.windows, number)
        more = number * first.rows
        return Work(first.rows, first.sampled, first.read + more, first.keys + more)


def work_of(plan: Plan, result: Result, windows: Sequence[int] = (), number: int = 0) -> Work:
    """The work of pass `number` of a step: logits were wanted for the rows that drew and for those that scored a prompt token."""
    drew = sum(1 + len(chunk.draft) for chunk in plan.chunks if chunk.sample)
    scored = sum(len(outcome.scores or ()) for outcome in result.outcomes)
    parts = ((chunk.start + number, len(chunk.trunk), chunk.draft.depths() if chunk.draft.tokens else ()) for chunk in plan.chunks)
    return Work.of(parts, drew + scored, windows)
