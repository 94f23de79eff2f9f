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
        if len(self.steps) >= self.keep:
            del self.steps[: self.keep // 2]
        self.tally.record(plan, result)
        tokens = sum(len(outcome.tokens) for outcome in result.outcomes)
        step = StepRecord(work_of(plan, result, self.windows), tokens, len(plan.chunks), seconds, result.drafting)
        self.steps.append(step)
        return step


def work_of(plan: Plan, result: Result, windows: Sequence[int] = ()) -> Work:
    """The work of a step that was done: logits were wanted for the rows that drew and for those that scored a prompt token."""
    drew = sum(1 + len(chunk.draft) for chunk in plan.chunks if chunk.sample)
    scored = sum(len(outcome.scores or ()) for outcome in result.outcomes)
    parts = ((chunk.start, len(chunk.trunk), chunk.draft.depths() if chunk.draft.tokens else ()) for chunk in plan.chunks)
    return Work.of(parts, drew + scored, windows)
