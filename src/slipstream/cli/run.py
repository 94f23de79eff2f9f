"""`slipstream run`: continues one prompt on the terminal.

Owns what is shown and where: the text alone on stdout, everything about it on stderr. The engine does the rest.
"""

import random
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipstream.base.errors import InputError
from slipstream.bench import arguments

if TYPE_CHECKING:
    from slipstream.engine.limit import Limit
    from slipstream.engine.llm import LLM
    from slipstream.engine.outputs import Delta

DEPTHS = 4  # of drafts, in the closing line
SEEDS = 10**6  # drawn seeds are short enough to be typed again


def run(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; '-' or nothing: read stdin.", show_default=False)] = None,
    model: arguments.Model = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token (small models then repeat themselves).")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens that hold this share of the mass.")] = 0.95,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens (0: all).")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, tokens that were already used become less likely.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a text (default: drawn, and shown).", show_default=False)] = None,
    n: Annotated[int, typer.Option(help="Samples of the same prompt.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the output; repeatable.", show_default=False)] = None,
    device: arguments.Device = "cpu",
    threads: arguments.Threads = None,
    quant: arguments.Quant = None,
    activations: arguments.Activations = None,
    kv: arguments.Kv = None,
    max_len: arguments.MaxLen = None,
    memory: arguments.Memory = None,
    speculate: arguments.Speculate = "auto",
    verify: arguments.Verify = "match",
    kernels: arguments.KernelSet = None,
) -> None:
    """Continues PROMPT. The text goes to stdout, all else to stderr."""
    from slipstream.step import SamplingParams

    seed = random.randrange(SEEDS) if seed is None else seed
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=repetition_penalty, seed=seed, n=n,
        stop=tuple(stop or ()),
    )  # fmt: skip
    prompt = read_prompt(prompt)
    options = arguments.given(
        threads=threads, quant=quant, activations=activations, kv=kv, max_len=max_len, memory=arguments.parse_size(memory), kernels=kernels
    )

    llm, start = open_model(model, device=device, speculate=speculate, verify=verify, max_batch=n, **options)
    from slipstream.engine.limit import Limit

    config = llm.engine.config
    describe(llm, seed)
    tell(start)
    tokens = as_tokens(prompt) if llm.engine.intake.tokenizer is None else prompt
    sizes = config.spec, config.weight_format, config.kv, config.threads
    limit = Limit(*sizes, min(max_tokens, config.max_len), llm.engine.kernels.device, config.activations)
    limit.probe()
    show, clock = Display(prompt, n, as_ids=llm.engine.intake.tokenizer is None), Clock(llm)
    with closing(llm.stream(tokens, params)) as deltas:
        for delta in deltas:
            clock.note(delta)
            show.add(delta)
    clock.stop()
    show.end()
    limit.probe()
    tell(clock.line(limit))
    llm.close()


def open_model(model: str | None, **options: Any) -> tuple["LLM", str]:
    """The engine, and a line on how long its start took."""
    began = time.perf_counter()
    from slipstream.engine.llm import LLM

    imported = time.perf_counter()
    llm = LLM(model, **options)
    return llm, f"start     {imported - began:.2f} s of imports, {time.perf_counter() - imported:.2f} s to open the model"


def read_prompt(prompt: str | None) -> str:
    """The argument, or stdin without its last line break."""
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin is None or (prompt is None and sys.stdin.isatty()):
        raise InputError("PROMPT: there is none; give a text to continue, or pipe one in")
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


def as_tokens(prompt: str) -> list[int]:
    """The prompt of a model without a tokenizer."""
    try:
        return [int(word) for word in prompt.split()]
    except ValueError:
        raise InputError(f"PROMPT={prompt[:40]!r}: this model has no tokenizer; give token ids, for instance '1 2 3'") from None


def tell(line: str) -> None:
    """A line about the text, not of it."""
    typer.secho(line, dim=True, err=True)


def describe(llm: "LLM", seed: int) -> None:
    """What runs, where its memory goes, which numerics it keeps."""
    from slipstream.base import native
    from slipstream.cost.memory import human

    config, memory = llm.engine.config, llm.engine.config.memory
    size = f"{config.spec.parameters() / 1e6:.1f} M parameters"
    if config.demo:
        tell(f"No --model given: this is the built-in demo model. It continues text ({size}, trained on public-domain books).")
    else:
        tell(f"model     {config.model_name}, {size}")
    parts = f"weights {human(memory.weights)} + KV {human(memory.kv)} ({memory.tokens} tokens) + scratch {human(memory.scratch)}"
    tell(f"memory    {parts} = {human(memory.total)}, of {human(memory.limit)}")
    tell(f"numerics  {config.profile}, {config.threads} threads, seed {seed}")
    if native.module is None:
        tell(f"Slow: the reference kernels run, because the native module does not ({native.reason}).")


@dataclass(slots=True)
class Display:
    """Puts samples on stdout one after the other; those whose turn has not come are held back."""

    prompt: str
    n: int
    as_ids: bool = False
    waiting: dict[int, list[str]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    turn: int = -1

    def __post_init__(self):
        self._begin_next()

    def add(self, delta: "Delta") -> None:
        text = "".join(f"{token} " for token in delta.token_ids) if self.as_ids else delta.text
        self.waiting.setdefault(delta.index, []).append(text)
        if delta.finish_reason is not None:
            self.finished.add(delta.index)
        self._flush()
        while self.turn in self.finished and self.turn + 1 < self.n:
            sys.stdout.write("\n")
            self._begin_next()
            self._flush()

    def end(self) -> None:
        sys.stdout.write("\n")
        sys.stdout.flush()

    def _flush(self) -> None:
        sys.stdout.write("".join(self.waiting.pop(self.turn, ())))
        sys.stdout.flush()

    def _begin_next(self) -> None:
        self.turn += 1
        if self.n > 1:
            sys.stdout.flush()
            tell(f"--- sample {self.turn + 1} of {self.n}")
        if sys.stdout.isatty():
            typer.secho(self.prompt, dim=True, nl=self.as_ids)


class Clock:
    """When tokens came, and in which steps."""

    def __init__(self, llm: "LLM"):
        self.steps, self.tokens, self.reasons = llm.engine.core.meter.steps, 0, []
        self.begin, self.first_step, self.first_tokens = len(self.steps), 0, 0
        self.tally, config = llm.engine.core.meter.tally, llm.engine.config
        self.lossy = "" if config.exact else f"; verify={config.verify} is LOSSY: this is not the model's own distribution"
        self.started, self.first, self.ended = time.perf_counter(), None, 0.0

    def note(self, delta: "Delta") -> None:
        self.tokens += len(delta.token_ids)
        if self.first is None and delta.token_ids:
            self.first, self.first_step, self.first_tokens = time.perf_counter(), len(self.steps), self.steps[-1].tokens
        if delta.finish_reason is not None:
            self.reasons.append(delta.finish_reason)

    def stop(self) -> None:
        self.ended = time.perf_counter()

    def line(self, limit: "Limit") -> str:
        """The speed line. Speed and share are those of the time after the first step that gave a token, where there is any."""
        from slipstream.base import native

        steps, tokens, seconds = self.steps[self.first_step :], self.tokens - self.first_tokens, self.ended - (self.first or self.started)
        if not steps:
            steps, tokens, seconds = self.steps[self.begin :], self.tokens, self.ended - self.started
        share, binds = limit.share(steps, seconds), limit.binds(steps)
        cut = " (cut at the length asked for)" if "length" in self.reasons else ""
        note = "; above 100%: something slowed the probes" if share > 1 else ""
        note += "" if native.module else "; probed without native code, so the true limit is higher"
        first = (self.first or self.ended) - self.started
        return (
            f"{self.tokens} tokens{cut}, {tokens / seconds:.0f} tokens/s, first token after {first * 1e3:.0f} ms, "
            f"{share:.0%} of this machine's limit ({bound(limit, binds)}{note}){self.drafts()}"
        )


    def drafts(self) -> str:
        """How far drafts went, if any were checked: tokens per step, over all steps and over those with a draft. And the rule, if it
        is a lossy one."""
        tally = self.tally
        if not tally.drafts:
            return self.lossy
        right = ", ".join(f"{share:.0%}" for share in tally.by_depth(min(DEPTHS, len(tally.accepted_at))))
        far = f"{tally.per_step:.2f} tokens per step, {tally.per_draft:.2f} where guesses were checked"
        return f"; {far} (right by depth: {right or '0%'}){self.lossy}"


def bound(limit: "Limit", binds: str) -> str:
    """The binding limit with its probed speed."""
    if binds == "memory":
        return f"memory: {limit.bandwidth:.1f} GB/s at {limit.working_set / 2**20:.1f} MiB"
    return "compute: " + ", ".join(f"{peak:.0f} Gop/s {kind}" for kind, peak in limit.peaks.items())
