"""Interference: how long the tokens of running streams keep their readers waiting while a long prompt comes in, with the engine's
target (--target-itl) and without one, one after the other in every repetition.

Of the batch one request is the prompt; the others are streams. Each has begun, and says `new_tokens`, before the prompt arrives;
they run on until it has its first token. Times are those of the readers, from one piece of a stream to its next: a token, or several
that came together.
"""

import time
from dataclasses import dataclass, field, replace
from itertools import pairwise

from slipstream.base.errors import InputError
from slipstream.bench.point import Measured, Point, Span, quantile
from slipstream.engine.llm import LLM
from slipstream.engine.outputs import Delta
from slipstream.step import SamplingParams

HELP = "time between the tokens of streams while a long prompt arrives, with and without a target"
BATCH, PROMPT_TOKENS, NEW_TOKENS = (5,), (4096,), 32
STREAM_PART = 16  # a stream's own prompt is shorter by this factor
COLUMNS = (
    ("quiet p50 ms", "quiet_p50_s", 1e3),
    ("target: p50", "target_p50_s", 1e3),
    ("p99", "target_p99_s", 1e3),
    ("prompt", "target_first_s", 1e3),
    ("no target: p50", "free_p50_s", 1e3),
    ("p99", "free_p99_s", 1e3),
    ("prompt", "free_first_s", 1e3),
)


@dataclass(slots=True)
class Reader:
    """Notes when tokens of one request come, and how many have come."""

    times: list[float] = field(default_factory=list)
    tokens: int = 0

    def __call__(self, delta: Delta) -> None:
        if delta.token_ids:
            self.times.append(time.perf_counter())
            self.tokens += len(delta.token_ids)

    def gaps(self, begin: float, end: float) -> list[float]:
        """Waits that ended between the two times."""
        return [after - before for before, after in pairwise(self.times) if begin < after <= end]


def measure(llm: LLM, point: Point, seed: int) -> Measured:
    """The same arrival twice: with the engine's target, and with none.

    Raises:
        InputError: no stream beside the prompt, or no gap between tokens before it comes.
    """
    if point.batch < 2 or point.new_tokens < 2:
        raise InputError(f"batch={point.batch}, new_tokens={point.new_tokens}: must be at least 2, one stream of two tokens and the prompt")
    figures, spans, raw = {}, {}, {}
    scheduler = llm.engine.core.scheduler
    options = scheduler.options
    try:
        for name, target in (("target", options.target_itl), ("free", 0.0)):
            scheduler.options = replace(options, target_itl=target)
            quiet, busy, first, spans[name] = arrival(llm, point, f"{seed} {name}")
            raw |= {f"{name}_quiet_s": quiet, f"{name}_s": busy}
            figures |= {f"{name}_p50_s": quantile(busy, 0.5), f"{name}_p99_s": quantile(busy, 0.99), f"{name}_first_s": first}
    finally:
        scheduler.options = options
    figures["quiet_p50_s"] = quantile(raw["target_quiet_s"] + raw["free_quiet_s"], 0.5)
    figures["target_s"] = options.target_itl
    return Measured(figures, spans, raw)


def arrival(llm: LLM, point: Point, seed: str) -> tuple[list[float], list[float], float, Span]:
    """Lets streams run and a prompt come in.

    Returns:
        Waits between the streams' tokens before and during the prompt, the time to its first token, and the steps of that time.
    """
    core, intake = llm.engine.core, llm.engine.intake
    prompts = point.prompts(llm.engine.config.spec.vocab, seed)
    short = max(1, point.prompt_tokens // STREAM_PART)
    readers, tickets = [], []
    for prompt in prompts[1:]:
        readers.append(Reader())
        endless = SamplingParams(max_tokens=point.length - short, temperature=0, ignore_eos=True)
        tickets += intake.request(prompt[:short], endless, readers[-1])[1]
    core.submit(tickets)
    while not all(reader.tokens >= point.new_tokens and len(reader.times) > 1 for reader in readers):
        core.step()
    newcomer, begun = Reader(), max(reader.times[0] for reader in readers)
    _, [ticket] = intake.request(prompts[0], SamplingParams(max_tokens=1, temperature=0, ignore_eos=True), newcomer)
    begin, arrived = len(core.meter.steps), time.perf_counter()
    core.submit([ticket])
    while not newcomer.times:
        core.step()
    answered = newcomer.times[0]
    span = Span(answered - arrived, core.meter.steps[begin:])
    core.abort([ticket.request.number for ticket in tickets])
    core.step()
    quiet = [gap for reader in readers for gap in reader.gaps(begun, arrived)]
    busy = [gap for reader in readers for gap in reader.gaps(arrived, time.perf_counter())]
    return quiet, busy, answered - arrived, span
