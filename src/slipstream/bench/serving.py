"""Serving: a load test of a server, and beside it, in turns, what the same engine does with the same requests offline.

Owns what is asked, the turns and what their times say. Sending belongs to load.py, the server's processes to own_server.py.

    closed   `clients` clients, each of which sends its next request when it has the answer to the last; waits count from there
    open     requests come at their times, Poisson or those of a trace, whatever the server does; waits count from these times, so that
             a request that cannot be sent in time counts as late, not as short
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from slipstream.base.errors import InputError
from slipstream.bench import traces
from slipstream.bench.load import Order, Reply, Target, Volley
from slipstream.bench.own_server import OwnServer, terminated_like_interrupted
from slipstream.bench.point import quantile
from slipstream.bench.traces import Entry
from slipstream.engine.limit import Limit
from slipstream.engine.llm import LLM
from slipstream.step import SamplingParams

CONNECTIONS = 1024  # of an open load at most
FOREIGN_VOCAB = 1000  # token ids that every model has
PARTS = (0.5, 0.9, 0.99)
WAITS = ("first_token_s", "between_tokens_s", "whole_s")


@dataclass(frozen=True)
class Ask:
    """What to measure.

    Attributes:
        model, options: as for LLM, for our own server.
        url: another server instead; api_key and served_model are for it.
        clients: of a closed load.
        rate: requests per second of an open load, Poisson.
        replay: an open load with the trace's own times, so many times as fast.
        trace: file of lengths and times; None: prompt_tokens and new_tokens for all.
        shrink: divides a trace's lengths.
        requests: of one turn; None: twice the clients, and 64 for an open load.
        arriving: tokens of a prompt that comes, in a turn of its own, when the streams of a closed load are half-way; 0: none.
        vocab: token ids are below this; None: the model's, or FOREIGN_VOCAB.
        repeat: turns; figures are their medians.
        patience, limit: seconds, see Target.fire.
    """

    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    url: str | None = None
    api_key: str | None = None
    served_model: str | None = None
    clients: int = 32
    rate: float | None = None
    replay: float | None = None
    trace: Path | None = None
    prompt_tokens: int = 128
    new_tokens: int = 128
    shrink: float = 1.0
    requests: int | None = None
    arriving: int = 0
    vocab: int | None = None
    repeat: int = 3
    seed: int = 0
    patience: float = 60.0
    limit: float = 600.0

    def __post_init__(self):
        for name in ("clients", "rate", "replay", "shrink", "requests", "vocab", "repeat", "patience", "limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name}={value}: must be above 0")
        if self.rate is not None and self.replay is not None:
            raise InputError(f"rate={self.rate:g}, replay={self.replay:g}: give one of them, or neither for clients that wait for answers")
        if self.arriving and self.open:
            raise InputError(f"arriving={self.arriving}: only among clients that wait for answers; leave out rate and replay")
        if self.replay is not None and self.trace is None:
            raise InputError(f"replay={self.replay:g}: needs the trace whose times it is to repeat")
        if self.url is not None and (self.model is not None or self.options):
            raise InputError(f"url={self.url!r}: that server has its model and options; leave out ours")

    @property
    def open(self) -> bool:
        return self.rate is not None or self.replay is not None

    @property
    def count(self) -> int:
        return self.requests or (64 if self.open else 2 * self.clients)

    @property
    def connections(self) -> int:
        return min(CONNECTIONS, self.count) if self.open else self.clients

    def entries(self) -> list[Entry]:
        """Lengths of a turn's requests, and times where a trace has them."""
        if self.trace is None:
            return [Entry(self.prompt_tokens, self.new_tokens)] * self.count
        found = traces.read(self.trace, self.count)
        return [replace(one, prompt=max(1, int(one.prompt / self.shrink)), output=max(1, int(one.output / self.shrink))) for one in found]

    def times(self, entries: Sequence[Entry], seed: str) -> list[float]:
        """When requests are due: all at once in a closed load."""
        if self.replay is not None:
            if entries[0].at is None:
                raise InputError(f"replay={self.replay:g}: {self.trace} has no arrival times; give a rate")
            return sorted(entry.at / self.replay for entry in entries)
        if self.rate is not None:
            noise = random.Random(f"{seed} arrivals")
            return list(accumulate(noise.expovariate(self.rate) for _ in entries))
        return [0.0] * len(entries)


@dataclass
class Turn:
    """One served turn: what came back, and what it cost.

    Attributes:
        orders, volley: what was sent, what became of it.
        open: waits count from when a request was due.
        cpu: processor seconds of our server's processes.
    """

    orders: list[Order]
    volley: Volley
    open: bool
    cpu: dict[str, float]

    def good(self) -> list[tuple[Order, Reply]]:
        return [(order, reply) for order, reply in zip(self.orders, self.volley.replies, strict=True) if not reply.error]

    def errors(self) -> list[str]:
        return [reply.error for reply in self.volley.replies if reply.error]

    @property
    def rate(self) -> float:
        """Tokens per second of all good answers together."""
        return sum(reply.tokens for _, reply in self.good()) / self.volley.seconds

    def token_cpu(self, name: str) -> float:
        """Processor seconds of one of our server's processes for a token."""
        return self.cpu[name] / max(1, sum(reply.tokens for _, reply in self.good()))

    def lateness(self) -> float:
        """The longest that the generator sent a request after it was due; in a closed load there is no such time."""
        return max((reply.sent - order.due for order, reply in self.good()), default=0.0) if self.open else 0.0

    def waits(self) -> dict[str, list[float]]:
        """Every wait of WAITS, all good answers together."""
        out: dict[str, list[float]] = {name: [] for name in WAITS}
        for order, reply in self.good():
            begun = order.due if self.open else reply.sent
            out["first_token_s"].append(reply.times[0] - begun)
            out["between_tokens_s"].extend(after - before for before, after in pairwise(reply.times))
            out["whole_s"].append(reply.times[-1] - begun)
        return out

    def waits_beside(self) -> list[float]:
        """Waits between tokens of the other answers whose middle lies in the time in which the last order, the one that arrives, is
        read: the step that brings its first token brings those of others a moment sooner or later."""
        last = self.volley.replies[-1]
        if last.error:
            return []
        others = (reply.times for _, reply in self.good() if reply is not last)
        return [after - before for times in others for before, after in pairwise(times) if last.sent < (before + after) / 2 < last.times[0]]


@dataclass(frozen=True, slots=True)
class Batch:
    """A turn's requests as one batch offline: tokens per second, those at the machine's limit, and processor seconds of a token."""

    rate: float
    possible: float
    cpu: float


@dataclass
class Serving:
    """All that was found.

    Attributes:
        turns: served ones; arrivals: those with a prompt that arrives.
        offline: the same lengths offline, one for each turn.
        llm, limit: the offline engine and its limit; None for another server.
    """

    ask: Ask
    target: Target
    turns: list[Turn] = field(default_factory=list)
    arrivals: list[Turn] = field(default_factory=list)
    offline: list[Batch] = field(default_factory=list)
    llm: LLM | None = None
    limit: Limit | None = None

    @property
    def ratio(self) -> float | None:
        """Served over offline, median of the pairs within a turn."""
        return median(turn.rate / batch.rate for turn, batch in zip(self.turns, self.offline, strict=True)) if self.offline else None

    def quantiles(self) -> dict[str, dict[float, float]]:
        """Quantiles of every wait, as medians over the turns; of `beside` too, where a prompt arrived. Without an answer there is none."""
        series = {name: [turn.waits()[name] for turn in self.turns] for name in WAITS}
        series["beside_s"] = [turn.waits_beside() for turn in self.arrivals]
        out = {}
        for name, each in series.items():
            filled = [waits for waits in each if waits]
            if filled:
                out[name] = {part: median(quantile(waits, part) for waits in filled) for part in PARTS}
        return out


def run(ask: Ask, say: Callable[[str], None] = lambda line: None) -> Serving:
    """Measures; our own server, if it is that, has ended when this returns."""
    entries = ask.entries()
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())
        if ask.url is not None:
            found = Serving(ask, Target(ask.url, ask.api_key, ask.served_model))
            server = None
        else:
            options = sized(ask, entries)
            server = stack.enter_context(OwnServer(ask.model, options))
            found = Serving(ask, Target(server.url), llm=LLM(ask.model, **options))
            found.limit = limit_of(found.llm, ask, entries)
            say(f"{found.llm.engine.config.model_name}: {found.llm.engine.config.profile}, served at {server.url}")
        few = replace(ask, requests=min(ask.count, ask.connections), arriving=0)
        warm = orders_of(few, entries[: few.count], found, "warm")
        served(found, server, [replace(order, new_tokens=min(order.new_tokens, 4), due=0.0) for order in warm])
        for number in range(ask.repeat):
            turns = [lambda seed: offline(found, orders_of(ask, entries, found, f"offline {seed}"))] if found.llm is not None else []
            turns.append(lambda seed: found.turns.append(served(found, server, orders_of(ask, entries, found, f"served {seed}"))))
            if ask.arriving:
                turns.append(lambda seed: found.arrivals.append(served(found, server, arrival(ask, found, f"arriving {seed}"), 1)))
            for turn in turns if number % 2 == 0 else turns[::-1]:
                turn(f"{ask.seed} {number}")
            say(f"repetition {number + 1} of {ask.repeat} done")
        if found.limit is not None:
            found.limit.probe()
    return found


def sized(ask: Ask, entries: Sequence[Entry]) -> dict[str, Any]:
    """Options of an engine that is just large enough, unless they are given."""
    longest = max(max(entry.prompt + entry.output for entry in entries), ask.arriving + 1 if ask.arriving else 0)
    asked = ask.options.get("max_len", longest)
    if asked < longest:
        raise InputError(f"max_len={asked}: the longest request has {longest} tokens; raise it, or use --shrink")
    batch = {} if ask.open else {"max_batch": ask.clients + bool(ask.arriving)}
    return {**batch, "max_len": longest, **ask.options}


def limit_of(llm: LLM, ask: Ask, entries: Sequence[Entry]) -> Limit:
    """The limit half-way through, when all have a seat."""
    config = llm.engine.config
    context = int(fmean(entry.prompt + entry.output / 2 for entry in entries)) * min(config.max_batch, len(entries))
    return Limit(config.spec, config.weight_format, config.kv, config.threads, context, llm.engine.kernels.device, config.activations)


def orders_of(ask: Ask, entries: Sequence[Entry], found: Serving, seed: str) -> list[Order]:
    """Requests with random prompts, different for every seed, so that nothing is cached from before."""
    vocab = ask.vocab or (found.llm.engine.config.spec.vocab if found.llm is not None else FOREIGN_VOCAB)
    noise = random.Random(seed)
    times = ask.times(entries, seed)
    return [
        Order([noise.randrange(vocab) for _ in range(entry.prompt)], entry.output, due)
        for entry, due in zip(entries, times, strict=True)
    ]


def arrival(ask: Ask, found: Serving, seed: str) -> list[Order]:
    """One request for each client, and a long prompt that comes when half of their tokens have."""
    streams = orders_of(ask, [Entry(ask.prompt_tokens, ask.new_tokens)] * ask.clients, found, seed)
    [newcomer] = orders_of(ask, [Entry(ask.arriving, 1)], found, f"{seed} long")
    return [*streams, replace(newcomer, after=ask.clients * ask.new_tokens // 2)]


def served(found: Serving, server: OwnServer | None, orders: list[Order], more: int = 0) -> Turn:
    """Sends the orders, with `more` connections than clients."""
    ask, before = found.ask, server.seconds() if server is not None else {}
    volley = found.target.fire(orders, ask.connections + more, ask.patience, ask.limit)
    after = server.seconds() if server is not None else {}
    return Turn(orders, volley, ask.open, {name: after[name] - before[name] for name in before.keys() & after.keys()})


def offline(found: Serving, orders: Sequence[Order]) -> None:
    """The same requests as one batch of the offline engine, with a probe of the machine before."""
    found.limit.probe()
    steps = found.llm.engine.core.meter.steps
    begin, started, spent = len(steps), time.perf_counter(), time.process_time()
    params = [SamplingParams(max_tokens=order.new_tokens, temperature=0, ignore_eos=True) for order in orders]
    outputs = found.llm.generate([order.prompt for order in orders], params)
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    tokens = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    found.offline.append(Batch(tokens / seconds, tokens / sum(map(found.limit.seconds, steps[begin:])), spent / tokens))
