"""What is measured and what comes of it: Point and Measured. Plain data and the prompts that belong to a point."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.engine.meter import StepRecord
from slipstream.step import SamplingParams


@dataclass(frozen=True, slots=True)
class Point:
    """One place on a case's grid: `batch` requests of `prompt_tokens`, each of which gets `new_tokens` more."""

    batch: int
    prompt_tokens: int
    new_tokens: int

    @property
    def length(self) -> int:
        """Tokens of one request when it ends."""
        return self.prompt_tokens + self.new_tokens

    def prompts(self, vocab: int, seed: int) -> list[list[int]]:
        """Random token ids [batch][prompt_tokens], different for every seed, so that nothing is cached from before."""
        noise = random.Random(f"{seed} {self}")
        return [[noise.randrange(vocab) for _ in range(self.prompt_tokens)] for _ in range(self.batch)]

    def params(self) -> SamplingParams:
        """Greedy, and exactly new_tokens long."""
        return SamplingParams(max_tokens=self.new_tokens, temperature=0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Span:
    """Steps that belong together and the wall time that they took, host work between them included."""

    seconds: float
    steps: Sequence[StepRecord]


@dataclass(frozen=True, slots=True)
class Measured:
    """One repetition of one point.

    Attributes:
        figures: what the case measured, by name; seconds and rates.
        raw: the series that figures are made of, seconds.
        spans: parts of the run whose share of the limit is wanted, by name.
    """

    figures: dict[str, float]
    spans: dict[str, Span]
    raw: dict[str, list[float]]


def quantile(values: list[float], part: float) -> float:
    """The least of the values that `part` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
