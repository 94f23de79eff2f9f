"""Recorded acceptance on a model of full size: what drafts of each length bring there, and what the controller chooses.

Owns the drafter that replays a trace (acceptance.py), the turns, and what is counted. The weights are random and so is the text, but
steps and drafts cost what they cost: the text that the model will say is made first, and a guess is that text as far as the trace says
that guesses were right, then something else. So verification keeps just what was recorded. What a guess costs is paid too: a real head,
or whatever drafter is named, runs for every one, and only its tokens are replaced.

One engine, and for each setting a scheduler of its own; they take turns. A turn begins when every request has its first token and ends
when a number of tokens is said, so that no batch is half empty at its end. Texts must be the same in all settings, or the run fails.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from slipstream.base.errors import BackendError, InputError
from slipstream.bench.acceptance import Recorded, Trace
from slipstream.bench.driver import STEP_ROWS
from slipstream.cost import Pace, assumed
from slipstream.engine.core import Core
from slipstream.engine.limit import Limit
from slipstream.engine.llm import LLM
from slipstream.engine.meter import Meter, StepRecord
from slipstream.engine.outputs import RequestOutput
from slipstream.engine.tally import Tally
from slipstream.scheduler import Scheduler
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import DraftContext, Drafter, States
from slipstream.step import DraftTree, SamplingParams
from slipstream.step.draft import EMPTY

PROMPT = 8  # tokens
DEPTHS = (0, 1, 2, 3, 4, 6, 8)
AUTO = "auto"
FREE = "none"  # guesses that cost nothing, as look-ups do
LONGER = 2  # times the tokens of a turn that a request may say, since some get ahead of others
DUMMY = "dummy"


@dataclass(frozen=True, slots=True)
class Known:
    """What a request will say, and how good guesses are on the way."""

    text: Sequence[int]
    recorded: Recorded


class Replay:
    """A drafter that is right as often as a trace says.

    Args:
        max_draft: nodes of a draft.
        other: whose guesses are replaced, and whose cost is paid; None: guesses cost nothing.

    Attributes:
        known: number of a request -> what it will say. Others get no guess.
    """

    def __init__(self, max_draft: int, other: Drafter | None = None):
        self.max_draft, self._other = max_draft, other
        self.known: dict[int, Known] = {}

    def watch(self, states: Sequence[States]) -> None:
        """For a drafter that looks into the model; called only if it does."""
        self._other.watch(states)

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        trees = self._other.propose(contexts) if self._other is not None else [None] * len(contexts)
        return [self._guess(context, tree) for context, tree in zip(contexts, trees, strict=True)]

    def drop(self, request: int) -> None:
        if self._other is not None:
            self._other.drop(request)

    def _guess(self, context: DraftContext, tree: DraftTree | None) -> DraftTree:
        """A chain as long as the guess that it replaces, or as the recorded one where there is none."""
        known, said = self.known.get(context.request), len(context.tokens) - context.prompt
        if known is None or said < 1:
            return EMPTY
        place = (said - 1) % len(known.recorded.right)
        count = min(known.recorded.drafted[place], context.budget) if tree is None else max(tree.depths(), default=0)
        if not count:
            return EMPTY
        right = list(known.text[said : said + min(count, known.recorded.right[place])])
        following = known.text[said + len(right)] if said + len(right) < len(known.text) else 0
        wrong = [following - 1 if following else 1] * (count - len(right))
        return DraftTree.chain(right + wrong, "replay" if tree is None else tree.kind, 0 if tree is None else tree.passes)


@dataclass(slots=True)
class Score:
    """What a setting did with a batch.

    Attributes:
        depth: guesses for each request and step; None: as the controller says.
        rates: tokens per second, per turn; ratios: how many times that of depth 0 in the same turn.
        checks: seconds of each step that checked guesses, without those of making the next ones; least: what the machine needs for it.
        drafting: seconds of making guesses, of each step that made some.
        share: of the machine's limit, per turn, in which making guesses takes no time.
        tallies: of each turn.
    """

    batch: int
    depth: int | None
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    drafting: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)

    @property
    def per_step(self) -> float:
        """Tokens per request and step, over all turns."""
        return 1 + sum(tally.accepted for tally in self.tallies) / sum(tally.steps for tally in self.tallies)

    @property
    def name(self) -> str:
        return AUTO if self.depth is None else str(self.depth)

    @property
    def speedup(self) -> float:
        return median(self.ratios)


@dataclass(frozen=True)
class Ask:
    """What to replay.

    Attributes:
        model: as for LLM, of full size.
        trace, temperature: the recorded requests, those that sampled with it; the replayed ones do too.
        drafter: whose cost is paid, as for `speculate`; FREE: nobody's.
        batches, depths: the grid; the controller takes part too.
        new_tokens: of each request and turn, in the mean.
        repeat: turns that count; there is one before them, in which the controller learns.
        options: of the engine.
    """

    model: str
    trace: Trace
    drafter: str
    temperature: float = 0.8
    batches: Sequence[int] = (1, 4, 16, 32)
    depths: Sequence[int] = DEPTHS
    new_tokens: int = 32
    repeat: int = 3
    options: dict[str, Any] = field(default_factory=dict)


def costing(trace: Trace, format: str) -> str:
    """The drafter whose cost fits a trace's: a head of the same kind with random weights in `format`; look-ups cost nothing.

    Raises:
        InputError: it runs a model of its own, which has to be named.
    """
    name, _, rest = trace.drafter.partition(":")
    module = choose(trace.drafter).module
    if hasattr(module, "heads"):
        return f"{name}:path={DUMMY}:{format}" + (f",{rest}" if rest else "")
    if hasattr(module, "beside") or hasattr(module, "exit"):
        raise InputError(f"trace of {trace.drafter!r}: it runs a model; say with --drafter what is to cost as much, or {FREE} for nothing")
    return FREE


def run(ask: Ask, say: Callable[[str], None] = lambda line: None) -> tuple[LLM, list[Score], Limit]:
    """Replays; returns the engine, a Score per batch and setting, and the limit.

    Raises:
        InputError: the trace has no request of this temperature, or depth 0 is missing.
        BackendError: a text is not what it is without guesses.
    """
    recorded = ask.trace.at(ask.temperature)
    if 0 not in ask.depths:
        raise InputError(f"depths={list(ask.depths)}: must have 0, which the others are held against")
    bench = Bench(ask)
    config = bench.llm.engine.config
    limit = Limit(config.spec, config.weight_format, config.kv, config.threads, max(ask.batches) * (PROMPT + ask.new_tokens))
    say(f"{config.model_name}: {config.profile}, {config.threads} threads; guesses cost what {ask.drafter!r} costs")
    scores = []
    for batch in ask.batches:
        own = [Score(batch, depth) for depth in (*ask.depths, None)]
        for turn in range(ask.repeat + 1):
            limit.probe()
            taken = [recorded[(turn * batch + at) % len(recorded)] for at in range(batch)]
            first = turn % len(own)
            done = {one.name: bench.turn(one, taken, limit, counts=turn > 0) for one in own[first:] + own[:first]}
            for one in own if turn else ():
                one.rates.append(done[one.name])
                one.ratios.append(done[one.name] / done["0"])
        best = max(own[:-1], key=lambda one: one.speedup)
        say(f"batch {batch}: best depth {best.name}, x{best.speedup:.2f}; {AUTO} x{own[-1].speedup:.2f}")
        scores += own
    return bench.llm, scores, limit


class Bench:
    """The engine, a core for each setting, and the texts.

    Args:
        ask: what to replay.
    """

    def __init__(self, ask: Ask):
        self._ask, batch = ask, max(ask.batches)
        deepest = max(ask.depths)
        self._length = LONGER * ask.new_tokens + deepest + 1
        rows = max(STEP_ROWS, batch * (1 + deepest))
        sizes = {"max_batch": batch, "max_step_tokens": rows, "max_len": PROMPT + self._length, "prefix_cache": False}
        self._replay = Replay(min(deepest, ask.trace.deepest))
        free = ask.drafter == FREE
        self.llm = LLM(ask.model, **{**sizes, **ask.options}, speculate=self._replay if free else ask.drafter)
        config, runner = self.llm.engine.config, self.llm.engine.executor.runner
        if not free:
            self._replay = runner.drafter = Replay(config.scheduler.max_draft, runner.drafter)
        self._cores = {depth: self._core(depth) for depth in ask.depths} | {None: self.llm.engine.core}
        self._prompts = [[(7919 * at + place) % config.spec.vocab for place in range(PROMPT)] for at in range(batch)]
        outputs = self._begin(self._cores[0], self._prompts)
        while self._cores[0].step():
            pass
        self._texts = [output.outputs[0].token_ids for output, _ in outputs]

    def _core(self, depth: int) -> Core:
        """A loop on the same engine that drafts to a depth, whether it pays or not."""
        engine = self.llm.engine
        config, kernels = engine.config, engine.kernels
        guess = assumed(config.spec, config.weight_format, config.kv, config.threads, kernels.device.partition(":")[0])
        options = replace(config.scheduler, max_draft=depth)
        return Core(lambda watch: Scheduler(options, watch, pace=Pace(guess)), engine.executor, Meter(config.spec.windows))

    def _begin(self, core: Core, prompts: Sequence[list[int]]) -> list[tuple[RequestOutput, int]]:
        """(output, number) of a request for each prompt, submitted."""
        out = []
        for seed, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=self._length, temperature=self._ask.temperature, seed=seed, ignore_eos=True)
            output, tickets = self.llm.engine.intake.request(prompt, params)
            core.submit(tickets)
            out.append((output, tickets[0].request.number))
        return out

    def turn(self, score: Score, taken: Sequence[Recorded], limit: Limit, counts: bool) -> float:
        """Tokens per second of a setting on these recorded requests; what it did is added to its score if that counts."""
        core, batch = self._cores[score.depth], len(taken)
        made = self._begin(core, self._prompts[:batch])
        texts = [output.outputs[0].token_ids for output, _ in made]
        self._replay.known = {number: Known(*pair) for (_, number), *pair in zip(made, self._texts, taken, strict=False)}
        while not all(texts):
            core.step()
        said, steps, tally = sum(map(len, texts)), len(core.meter.steps), core.meter.tally.copy()
        began = time.perf_counter()
        while sum(map(len, texts)) - said < batch * self._ask.new_tokens and core.step():
            pass
        seconds = time.perf_counter() - began
        said = sum(map(len, texts)) - said
        core.abort([number for _, number in made])
        while core.step():
            pass
        for at, text in enumerate(texts):
            if text != self._texts[at][: len(text)]:
                raise BackendError(f"depth {score.name}, batch {batch}: request {at} says something else than without guesses")
        if counts:
            self._count(score, core.meter.steps[steps:], core.meter.tally.since(tally), seconds, limit)
        return said / seconds

    def _count(self, score: Score, steps: Sequence[StepRecord], tally: Tally, seconds: float, limit: Limit) -> None:
        for step in steps:
            if step.work.rows > step.requests:
                score.checks.append(step.seconds - step.drafting)
                score.least.append(limit.seconds(step))
        score.drafting += [step.drafting for step in steps if step.drafting]
        score.share.append(limit.share(steps, seconds))
        score.tallies.append(tally)
