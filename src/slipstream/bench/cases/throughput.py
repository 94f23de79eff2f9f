"""Throughput: batches of growing size, from the first prompt token to the last new one, and the part of a step outside native ops."""

import time

from slipstream.base import native
from slipstream.bench.point import Measured, Point, Span
from slipstream.engine.llm import LLM

HELP = "many requests at once: tokens per second over batch sizes"
BATCH, PROMPT_TOKENS, NEW_TOKENS = (1, 2, 4, 8, 16, 32), (64,), 64
COLUMNS = (
    ("seconds", "seconds", 1),
    ("new tok/s", "new_tokens_per_s", 1),
    ("all tok/s", "all_tokens_per_s", 1),
    ("host ms", "host_s", 1e3),
)


def measure(llm: LLM, point: Point, seed: int) -> Measured:
    """Generates the whole batch in one call."""
    prompts = point.prompts(llm.engine.config.spec.vocab, seed)
    steps = llm.engine.core.meter.steps
    begin, spent, started = len(steps), native.seconds(), time.perf_counter()
    outputs = llm.generate(prompts, point.params())
    seconds = time.perf_counter() - started
    host = seconds - (native.seconds() - spent)
    new = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    every = new + sum(map(len, prompts))
    figures = {"seconds": seconds, "new_tokens_per_s": new / seconds, "all_tokens_per_s": every / seconds}
    figures["host_s"] = host / len(steps[begin:])  # of a step
    return Measured(figures, {"all": Span(seconds, steps[begin:])}, {"step_s": [step.seconds for step in steps[begin:]]})
