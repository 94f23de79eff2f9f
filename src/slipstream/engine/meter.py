"""The meter: what the steps did, how long they took, and how fast the machine could have done it.

Owns the records of a run and the arithmetic of its speed line. Probing the machine is the caller's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipstream.step import Plan, Result


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: rows computed, rows sampled, cached tokens read (summed over requests), tokens gained, seconds."""

    rows: int
    sampled: int
    context: int
    tokens: int
    requests: int
    seconds: float


class Meter:
    """Keeps the last `keep` steps."""

    def __init__(self, keep: int = 100_000):
        self.steps: list[StepRecord] = []
        self.keep = keep

    def record(self, plan: Plan, result: Result, seconds: float) -> None:
        if len(self.steps) >= self.keep:
            del self.steps[: self.keep // 2]
        chunks = plan.chunks
        self.steps.append(
            StepRecord(
                rows=plan.rows,
                sampled=sum(1 + len(chunk.draft) for chunk in chunks if chunk.sample),
                context=sum(chunk.start + len(chunk.trunk) for chunk in chunks),
                tokens=sum(len(outcome.tokens) for outcome in result.outcomes),
                requests=len(chunks),
                seconds=seconds,
            )
        )


@dataclass(frozen=True, slots=True)
class Speed:
    """A run in numbers; `share` is the time the machine would have needed at its limit over the time it took."""

    tokens: int
    seconds: float
    tokens_per_s: float
    share: float


def speed(steps: Sequence[StepRecord], limit: Callable[[StepRecord], float]) -> Speed:
    """Sums up steps. `limit` gives the least seconds in which the machine could do a step."""
    seconds = sum(step.seconds for step in steps)
    tokens = sum(step.tokens for step in steps)
    if not seconds:
        return Speed(tokens, 0.0, 0.0, 0.0)
    return Speed(tokens, seconds, tokens / seconds, sum(limit(step) for step in steps) / seconds)
