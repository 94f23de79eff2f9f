"""The driver: one loop for every case. Loads, warms up, then measures and probes in turn; sums up by medians.

Owns the order of measuring. What a point means belongs to its case, what the machine could do to engine/limit.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import ModuleType
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.bench.point import Measured, Point
from slipstream.engine.limit import Limit
from slipstream.engine.llm import LLM

CASES = "slipstream.bench.cases"
STEP_ROWS = 512  # rows of one step, unless a batch needs more


@dataclass(frozen=True)
class Ask:
    """What to measure.

    Attributes:
        case: file in bench/cases.
        model: as for LLM.
        batch, prompt_tokens: the grid; () takes the case's own.
        new_tokens: None takes the case's own.
        repeat: repetitions of every point; figures are their medians.
        options: further options of LLM.
    """

    case: str
    model: str | None = None
    batch: tuple[int, ...] = ()
    prompt_tokens: tuple[int, ...] = ()
    new_tokens: int | None = None
    repeat: int = 3
    options: dict[str, Any] = field(default_factory=dict)

    def points(self, case: ModuleType) -> list[Point]:
        """The grid, batch by batch.

        Raises:
            InputError: a number is below 1, or a case that takes one request at a time is asked for a batch.
        """
        batches, prompts = self.batch or case.BATCH, self.prompt_tokens or case.PROMPT_TOKENS
        new = self.new_tokens or case.NEW_TOKENS
        for name, values in (("batch", batches), ("prompt_tokens", prompts), ("new_tokens", (new,)), ("repeat", (self.repeat,))):
            for value in values:
                if value < 1:
                    raise InputError(f"{name}={value}: must be at least 1")
        return [Point(batch, prompt, new) for batch in batches for prompt in prompts]


@dataclass
class Run:
    """One point, measured: its repetitions and the limit that was probed between them."""

    point: Point
    limit: Limit
    repetitions: list[Measured] = field(default_factory=list)

    def figure(self, name: str) -> float:
        """Median over the repetitions."""
        return median(measured.figures[name] for measured in self.repetitions)

    def shares(self) -> dict[str, list[float]]:
        """Share of the limit per span and repetition, all against the medians of this point's probes."""
        out: dict[str, list[float]] = {}
        for measured in self.repetitions:
            for name, span in measured.spans.items():
                out.setdefault(name, []).append(self.limit.share(span.steps, span.seconds))
        return out

    def binds(self) -> dict[str, str]:
        """Which limit holds for each span."""
        return {name: self.limit.binds(span.steps) for name, span in self.repetitions[0].spans.items()}


def run(ask: Ask, say: Callable[[str], None] = lambda line: None) -> tuple[LLM, list[Run]]:
    """Measures; returns the engine (for its configuration) and one Run per point.

    Points take turns within a repetition, with a probe before each and one at the end, so that drift of a shared machine
    falls on all of them and on their limits alike.
    """
    case = registry.load(CASES, ask.case, "bench case")
    points = ask.points(case)
    llm = load(ask, points)
    config = llm.engine.config
    say(f"{config.model_name}: {config.profile}, {config.threads} threads")
    case.measure(llm, points[0], seed=-1)
    runs = [Run(point, limit_of(llm, point)) for point in points]
    for repetition in range(ask.repeat):
        for one in runs:
            one.limit.probe()
            one.repetitions.append(case.measure(llm, one.point, seed=repetition))
        say(f"repetition {repetition + 1} of {ask.repeat} done")
    for one in runs:
        one.limit.probe()
    return llm, runs


def load(ask: Ask, points: Sequence[Point]) -> LLM:
    """The engine, just large enough for the points, and without a prefix cache, which would hide the cost of prompts."""
    batch = max(point.batch for point in points)
    sizes = {"max_batch": batch, "max_step_tokens": max(STEP_ROWS, batch), "max_len": max(point.length for point in points)}
    return LLM(ask.model, **{**sizes, "prefix_cache": False, **ask.options})


def limit_of(llm: LLM, point: Point) -> Limit:
    """The limit at this point: its working set includes the KV of all requests half way."""
    config = llm.engine.config
    context = point.batch * (point.prompt_tokens + point.new_tokens // 2)
    return Limit(config.spec, config.weight_format, config.kv, config.threads, context, llm.engine.kernels.device, config.activations)
