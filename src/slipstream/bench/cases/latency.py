"""Latency: one request at a time, over prompt lengths. Time to the first token, then time between tokens, and how much of that is
not spent in native ops: the host's share, which is Python's."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from slipstream.base import native
from slipstream.bench.point import Measured, Point, Span
from slipstream.engine.llm import LLM

HELP = "one request at a time: time to the first token and between tokens"
BATCH, PROMPT_TOKENS, NEW_TOKENS = (1,), (16, 128, 512), 64
COLUMNS = (
    ("first token ms", "first_token_s", 1e3),
    ("between tokens ms", "between_tokens_s", 1e3),
    ("of it host", "host_s", 1e3),
    ("tokens/s", "tokens_per_s", 1),
)


def measure(llm: LLM, point: Point, seed: int) -> Measured:
    """Streams the point's requests one after the other; figures are medians over them."""
    steps = llm.engine.core.meter.steps
    firsts, gaps, hosts = [], [], []
    spans = {"prefill": Span(0.0, []), "decode": Span(0.0, [])}
    for prompt in point.prompts(llm.engine.config.spec.vocab, seed):
        begin, times, at, spent, counts = len(steps), [time.perf_counter()], [], [], []
        for delta in llm.stream(prompt, point.params()):
            if delta.token_ids:
                times.append(time.perf_counter())
                spent.append(native.seconds())
                at.append(len(steps))
                counts.append(len(delta.token_ids))
        firsts.append(times[1] - times[0])
        gaps.extend(_each(times[1:], counts))
        hosts.extend(_each([clock - ops for clock, ops in zip(times[1:], spent, strict=True)], counts))
        for name, seconds, part in (
            ("prefill", times[1] - times[0], steps[begin : at[0]]),
            ("decode", times[-1] - times[1], steps[at[0] : at[-1]]),
        ):
            spans[name] = Span(spans[name].seconds + seconds, [*spans[name].steps, *part])
    figures = {"first_token_s": median(firsts), "between_tokens_s": median(gaps) if gaps else 0.0}
    figures["host_s"] = median(hosts) if hosts else 0.0
    decode = spans["decode"]
    figures["tokens_per_s"] = sum(step.tokens for step in decode.steps) / decode.seconds if decode.seconds else 0.0
    raw = {"first_token_s": firsts, "between_tokens_s": gaps, "host_s": hosts}
    return Measured(figures, {name: span for name, span in spans.items() if span.steps}, raw)


def _each(times: Sequence[float], counts: Sequence[int]) -> Iterator[float]:
    """Seconds per token after the first piece; tokens that come together have equal shares of the time since the piece before."""
    for (before, after), count in zip(pairwise(times), counts[1:], strict=True):
        yield from [(after - before) / count] * count
