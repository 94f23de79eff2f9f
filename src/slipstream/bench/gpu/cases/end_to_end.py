"""End to end: the engine itself on the device, batch 1, 8 and 64: tokens per second, share of the weight-streaming limit, host time.

The profiler says in how much of a few steps the device was busy (kernels that overlap count once), and how much lay between one
kernel and the next. The rest of a step's wall time is the host's. Profiling slows steps down, so wall times are taken without it.
"""

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch

from slipstream import LLM, SamplingParams
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.limits import Limits
from slipstream.cost import step_cost

QUESTION = "How fast is the engine as it is, and how much of a step is the host?"
ORDER, SECONDS = 90, 165
MODELS = (  # and `quant`, if any
    *("dummy:llama-3.2-1b", "dummy:llama-3.1-8b", "dummy:llama-3.1-8b int4", "dummy:llama-3.1-8b fp8", "dummy:qwen3-30b-a3b"),
    "dummy:qwen3-30b-a3b fp8",
)
DRY_MODELS = ("dummy:tiny",)
BATCHES, DRY_BATCHES = (1, 8, 64), (1, 2)
MANY = {"dummy:llama-3.2-1b": (256,)}  # further batches of a model: what the host needs for many requests
ROUNDS = "eagle:path=dummy,nodes=3,depth=3"  # a random head, hardly ever right: a round says one token and takes as long as any
ROUND_MODELS = MODELS[:1]
PROMPT, NEW, DRY_NEW = 128, 48, 6
PROFILED = 17  # new tokens of the profiled run: two steps of eight passes
PAUSE = 20.0  # microseconds without a kernel in which the host was awaited


def measure(bench: Bench) -> None:
    limits = bench.limits()
    for model in bench.pick(MODELS, DRY_MODELS):
        made: list[LLM] = []

        def load(model: str = model, made: list = made) -> None:
            began = time.perf_counter()
            made.append(engine(bench, model))
            bench.clock.synchronize()
            llm = made[0]
            bench.row(model=model, what="load", seconds=time.perf_counter() - began, profile=llm.engine.config.profile)

        bench.one(f"{model} load", load)
        points = [(made, model, batch) for batch in _batches(bench, model)]
        bench.each(points, lambda point: f"{point[1]} batch {point[2]}", lambda point: one(bench, limits, *point))
        bench.one(f"{model} mixed", lambda made=made, model=model: mixed(bench, made, model))
        if made:
            made.pop().close()
            gc.collect()
        if model in bench.pick(ROUND_MODELS, DRY_MODELS):
            bench.one(f"{model} rounds", lambda model=model: in_rounds(bench, model))


def engine(bench: Bench, model: str, **options) -> LLM:
    """Room for the greatest batch and no more; no prefix cache, which would hide prompts."""
    batch = max(_batches(bench, model))
    length = PROMPT + NEW + 16
    sizes = {"max_batch": batch, "max_step_tokens": bench.pick(2048, 64), "max_len": length, "kv_tokens": batch * (length + 16)}
    source, _, quant = model.partition(" ")
    return LLM(source, device=bench.device, quant=quant or None, prefix_cache=False, **{**sizes, "speculate": "none", **options})


def _batches(bench: Bench, model: str) -> tuple[int, ...]:
    return bench.pick(BATCHES + MANY.get(model, ()), DRY_BATCHES)


@contextmanager
def under_way(llm: LLM, steps: int) -> Iterator[None]:
    """So many steps at a time."""
    scheduler = llm.engine.core.scheduler
    before, scheduler.options = scheduler.options, replace(scheduler.options, ahead=steps - 1)
    try:
        yield
    finally:
        scheduler.options = before


def one(bench: Bench, limits: Limits, made: list[LLM], model: str, batch: int) -> None:
    if not made:  # the process was started again after the model had been loaded
        made.append(engine(bench, model))
    llm = made[0]
    new = bench.pick(NEW, DRY_NEW)
    for seed in range(2):  # the first runs every size of step, the second captures it
        generate(bench, llm, batch, new, seed=seed)
    steps = llm.engine.core.meter.steps
    rates, walls, shares, firsts, apart = [], [], [], [], []
    for repetition in range(bench.pick(3, 1)):
        with under_way(llm, 1):
            apart.append(batch * new / generate(bench, llm, batch, new, seed=2 + repetition))
        begin = len(steps)
        with under_way(llm, 2):
            wall = generate(bench, llm, batch, new, seed=2 + repetition)
        mine = steps[begin:]
        decode = [step for step in mine if step.work.rows == batch and step.tokens == batch]
        rates.append(batch * new / wall)
        firsts.append(sum(step.seconds for step in mine) - sum(step.seconds for step in decode))
        if decode:
            walls.append(median(step.seconds for step in decode))
            shares.append(sum(streaming(llm, limits, step) for step in decode) / sum(step.seconds for step in decode))
    with under_way(llm, 2):
        device = on_device(bench, llm, batch)
    wall = median(walls) if walls else None
    bench.row(
        model=model, what="generate", batch=batch, tokens_s=median(rates), one_at_a_time_tokens_s=median(apart),
        decode_tokens_s=wall and batch / wall, step_ms=wall and wall * 1e3, share_of_streaming_limit=median(shares) if shares else None,
        device_ms=device and device[0] * 1e3, gaps_ms=device and device[1] * 1e3,
        host_ms=(wall - sum(device)) * 1e3 if wall and device else None, prefill_ms=median(firsts) * 1e3,
        raw={"rates": rates, "apart": apart, "walls": walls},
    )  # fmt: skip


def generate(bench: Bench, llm: LLM, batch: int, new: int, seed: int) -> float:
    """Seconds for a batch of equal requests."""
    noise, vocab = random.Random(seed), llm.engine.config.spec.vocab
    prompts = [[noise.randrange(vocab) for _ in range(bench.pick(PROMPT, 5))] for _ in range(batch)]
    return _timed(bench, llm, prompts, SamplingParams(max_tokens=new, temperature=0, ignore_eos=True))


def mixed(bench: Bench, made: list[LLM], model: str) -> None:
    """Requests of all lengths, half as many again as there are seats: prompts come in while others decode, and most steps have one pass."""
    if not made:
        made.append(engine(bench, model))
    noise, llm = random.Random(3), made[0]
    config, most, new = llm.engine.config, bench.pick(PROMPT, 5), bench.pick(NEW, DRY_NEW)
    count = config.max_batch * 3 // 2
    prompts = [[noise.randrange(config.spec.vocab) for _ in range(noise.randint(1, most))] for _ in range(count)]
    params = [SamplingParams(max_tokens=noise.randint(1, new), temperature=0, ignore_eos=True) for _ in prompts]
    tokens, rates = sum(one.max_tokens for one in params), {1: [], 2: []}
    for repetition in range(bench.pick(5, 2)):
        for steps in rates:
            with under_way(llm, steps):
                seconds = _timed(bench, llm, prompts, params)
            if repetition > 1 or bench.dry:  # in the first two sizes of steps are run and captured
                rates[steps].append(tokens / seconds)
    apart, together = (median(found) for found in rates.values())
    bench.row(model=model, what="mixed", batch=count, tokens_s=together, one_at_a_time_tokens_s=apart, raw=rates)


def in_rounds(bench: Bench, model: str) -> None:
    """A check of three guesses, the head's reading and three guesses more, several times in a step, beside plain passes of the same rows:
    what a round takes of the device and of the host says how many guesses must be right."""
    llm, new = engine(bench, model, speculate=ROUNDS, control=False), bench.pick(NEW, 12)
    for batch in bench.pick((1, 8), DRY_BATCHES):
        for seed in range(2):  # as in `one`
            generate(bench, llm, batch, new, seed=seed)
        begin = len(llm.engine.core.meter.steps)
        wall = generate(bench, llm, batch, new, seed=2)
        rounds = [step for step in llm.engine.core.meter.steps[begin:] if step.work.rows > batch and step.drafting]
        bench.row(
            model=model, what="rounds", batch=batch, tokens_s=batch * new / wall, rounds=len(rounds),
            round_ms=1e3 * median(step.seconds for step in rounds) if rounds else None,
            guesses_ms=1e3 * median(step.drafting for step in rounds) if rounds else None,
        )  # fmt: skip
    llm.close()
    gc.collect()


def _timed(bench: Bench, llm: LLM, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> float:
    began = time.perf_counter()
    llm.generate(prompts, params)
    bench.clock.synchronize()
    return time.perf_counter() - began


def streaming(llm: LLM, limits: Limits, step) -> float:
    """The least time of a step: what it must read and write over the bandwidth probed in this process."""
    config = llm.engine.config
    return step_cost(config.spec, config.weight_format, config.kv, step.work, device="cuda").bytes / limits.bandwidth


def on_device(bench: Bench, llm: LLM, batch: int) -> tuple[float, float] | None:
    """Seconds per decode step in which kernels or copies ran on the device, and those between them, by torch's profiler; None where it
    cannot tell."""
    if bench.dry:
        bench.unavailable(f"device time at batch {batch}", "needs a device; wall times of steps were taken")
        return None
    noise, vocab = random.Random(9), llm.engine.config.spec.vocab
    prompts = [[noise.randrange(vocab)] for _ in range(batch)]  # prompts of one token: all steps are decode steps
    params = SamplingParams(max_tokens=PROFILED, temperature=0, ignore_eos=True)
    steps = llm.engine.core.meter.steps
    begin = len(steps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        llm.generate(prompts, params)
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not events:
        bench.unavailable(f"device time at batch {batch}", "torch's profiler saw no kernels; compare with decode_step's graph")
        return None
    count = len(steps) - begin
    busy, between = _occupied(sorted((event.time_range.start, event.time_range.end) for event in events))
    by_kernel: dict[str, list[float]] = {}
    for event in events:
        by_kernel.setdefault(event.name[:80], []).append(event.time_range.elapsed_us())
    top = sorted(by_kernel.items(), key=lambda item: -sum(item[1]))[:12]
    shown = "; ".join(f"{name}: {len(times) / count:.0f} x {sum(times) / len(times):.1f} us" for name, times in top[:6])
    config = llm.engine.config
    name = f"{config.model_name} {config.weight_format} batch {batch}"
    bench.note(f"{name}: {len(events) / count:.0f} kernels and copies per step; most time in {shown}")
    return busy / count / 1e6, between / count / 1e6


def _occupied(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Microseconds covered by spans, given by their begin, and those between them but for pauses, in which the host was awaited."""
    busy = between = end = 0.0
    for first, last in spans:
        gap = first - end
        between += gap if 0 < gap < PAUSE else 0
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return busy, between


def answer(rows: list[dict]) -> list[str]:
    out = []
    for row in (row for row in rows if row["what"] == "generate"):
        device = "?" if row["device_ms"] is None else f"{row['device_ms']:.2f}"
        between = "" if row["device_ms"] is None else f" and {row['gaps_ms']:.2f} ms between kernels, {row['host_ms']:.2f} ms the host"
        step, share = row["step_ms"] or 0.0, row["share_of_streaming_limit"] or 0.0
        out.append(
            f"{row['model']} batch {row['batch']}: {row['tokens_s']:,.0f} tokens/s, step {step:.2f} ms, of which "
            f"device {device} ms{between}; {share:.0%} of the streaming limit; {row['one_at_a_time_tokens_s']:,.0f} with one step at a time"
        )
    for row in (row for row in rows if row["what"] == "rounds" and row["round_ms"]):
        out.append(
            f"{row['model']} batch {row['batch']} in rounds of three guesses: {row['round_ms']:.2f} ms a round, of which the head's part "
            f"{row['guesses_ms']:.2f} ms"
        )
    for row in (row for row in rows if row["what"] == "mixed"):
        out.append(
            f"{row['model']}, {row['batch']} requests of mixed lengths: {row['tokens_s']:,.0f} tokens/s, "
            f"{row['one_at_a_time_tokens_s']:,.0f} with one step at a time"
        )
    return out
