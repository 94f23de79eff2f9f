"""The comparison: Slipstream and its peers on the same weights and prompts, taking turns, beside the limit probed between them.

Owns the order of turns, what becomes of a peer that fails, and the sums. How a peer is reached is the business of peer.py, what
the machine could do of engine/limit.py.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from slipstream.arch import ModelSpec, shape
from slipstream.base import registry
from slipstream.base.errors import BackendError, InputError
from slipstream.bench import made_weights, peers
from slipstream.bench.peer import Peer, python_of
from slipstream.bench.point import Point
from slipstream.cost import Work
from slipstream.engine.limit import Limit
from slipstream.engine.meter import StepRecord
from slipstream.files import gguf
from slipstream.hardware import read as read_machine

PEERS = peers.__name__
OWN = "slipstream"  # the peer that the others are held against
KV = "bf16"  # two bytes per number, as llama.cpp's f16
CONTEXT = 16  # tokens of each prompt before decoding: few enough that 32 of them are one step of everybody
WARM = 2  # steps of the turns that are not counted
LISTEN = 0.1  # seconds between turns in which nothing of ours runs
QUIET = 0.05  # of the cores may be busy then; OpenMP engines lose far more than what others take
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Ask:
    """What to compare.

    Attributes:
        shape: a named shape; its weights are random.
        peers: name, as its file in bench/peers -> its venv.
        weights: how matrices are stored, a key of `made_weights.STORED`.
        batch: sequences that decode together.
        prompt_tokens: lengths of single prompts.
        new_tokens: tokens of each sequence in a decode turn.
        repeat: repetitions of every point.
        threads: of everybody; None takes the physical cores.
    """

    shape: str
    peers: Mapping[str, Path] = field(default_factory=dict)
    weights: str = "Q4_0"
    batch: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    prompt_tokens: tuple[int, ...] = (512, 2048)
    new_tokens: int = 32
    repeat: int = 5
    threads: int | None = None

    def points(self, spec: ModelSpec) -> list[Point]:
        """Prompts, then decoding: a prompt is a point with one new token.

        Raises:
            InputError: a number is too small, or the longest prompt is longer than the model was made for.
        """
        for name, values, least in (
            ("batch", self.batch, 1),
            ("prompt_tokens", self.prompt_tokens, 1),
            ("new_tokens", (self.new_tokens,), WARM),
            ("repeat", (self.repeat,), 1),
        ):
            for value in values:
                if value < least:
                    raise InputError(f"{name}={value}: must be at least {least}")
        points = [Point(1, tokens, 1) for tokens in self.prompt_tokens]
        points += [Point(batch, CONTEXT, self.new_tokens + 1) for batch in self.batch]
        longest = max((point.length for point in points), default=0)
        if not points or longest > spec.max_len:
            raise InputError(f"prompt_tokens={self.prompt_tokens}, batch={self.batch}: need a point, none beyond {spec.max_len} positions")
        return points


@dataclass
class Runner:
    """One engine of the comparison.

    Attributes:
        name: as its file in bench/peers.
        python: interpreter of its venv.
        file: that module.
        facts: what it says of itself.
        failure: why it was left out from then on; None if it was not.
    """

    name: str
    python: Path
    file: ModuleType
    facts: dict[str, str] = field(default_factory=dict)
    failure: str | None = None
    peer: Peer | None = None


@dataclass
class Place:
    """One point: what every engine did there.

    Attributes:
        turns: per repetition, by engine: seconds, tokens, and the likeliest next token after a prompt.
        busy: per repetition, share of the cores that worked while every engine waited; None where the system does not say.
    """

    point: Point
    limit: Limit
    turns: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    busy: list[float | None] = field(default_factory=list)

    @property
    def is_prompt(self) -> bool:
        return self.point.new_tokens == 1

    def possible(self) -> float:
        """Tokens per second that the machine could do at best: the whole prompt as one step, or the step in the middle of decoding."""
        batch, start = self.point.batch, self.point.prompt_tokens
        cached, rows = (0, start) if self.is_prompt else (start + self.point.new_tokens // 2, 1)
        work = Work.of([(cached, rows, ())] * batch, batch, self.limit.spec.windows)
        return batch * rows / self.limit.seconds(StepRecord(work, batch, batch, 0.0))

    def rate(self, name: str) -> float | None:
        """Median tokens per second of an engine; None if it was never measured here."""
        rates = [turn[name]["tokens"] / turn[name]["seconds"] for turn in self.turns if name in turn]
        return median(rates) if rates else None

    def ratio(self, name: str) -> float | None:
        """How many times as fast Slipstream is: median over the repetitions, each of which has both within moments."""
        rates = [{own: turn[own]["tokens"] / turn[own]["seconds"] for own in turn} for turn in self.turns if name in turn]
        return median(each[OWN] / each[name] for each in rates) if rates else None

    def agreeing(self, name: str) -> tuple[int, int] | None:
        """(repetitions in which an engine's next token after the prompt was Slipstream's, repetitions)."""
        pairs = [(turn[OWN]["first"], turn[name]["first"]) for turn in self.turns if name in turn and "first" in turn[name]]
        return (sum(own == other for own, other in pairs), len(pairs)) if pairs else None


@dataclass
class Comparison:
    """All of it. `stored` is the GGUF file, `bytes` what a step reads of it."""

    ask: Ask
    spec: ModelSpec
    threads: int
    stored: Path
    bytes: int
    runners: list[Runner]
    places: list[Place]

    def disturbed(self) -> float | None:
        """Median share of the cores that something else kept busy, where that is more than QUIET; else None."""
        busy = [share for place in self.places for share in place.busy if share is not None]
        return found if busy and (found := median(busy)) > QUIET else None


def run(ask: Ask, where: Path | None = None, say: Callable[[str], None] = lambda line: None) -> Comparison:
    """Measures. A peer that fails is said, kept with its reason, and left out from there on. Ctrl-C keeps the repetitions that are whole.

    Args:
        where: folder for weights; None for `made_weights.folder()`.

    Raises:
        InputError: the ask cannot be used as given; nothing was started.
        BackendError: Slipstream itself failed.
    """
    spec, where = shape(ask.shape), where or made_weights.folder()
    points, runners = ask.points(spec), runners_of(ask)
    threads = ask.threads or read_machine().threads
    stored = made_weights.gguf_file(ask.shape, ask.weights, where, say)
    size = step_bytes(stored)
    limits = [Limit(spec, made_weights.STORED[ask.weights], KV, threads, _context(point)) for point in points]
    found = Comparison(ask, spec, threads, stored, size, runners, [Place(*pair) for pair in zip(points, limits, strict=True)])
    folder = made_weights.bf16_folder(ask.shape, where, say) if any(one.file.WEIGHTS == "folder" for one in runners) else None
    with ExitStack() as stack:
        for runner in runners:
            _attempt(runner, say, lambda runner=runner: _start(runner, found, folder, stack))
            if not runner.failure:
                say(f"{runner.name}: {', '.join(f'{key} {value}' for key, value in runner.facts.items())}")
        for repetition in range(ask.repeat):
            try:
                for place in found.places:
                    _round(found, place, repetition, say)
            except KeyboardInterrupt:
                if not repetition:
                    raise
                say(f"interrupted: {repetition} of {ask.repeat} repetitions are kept")
                for place in found.places:
                    del place.turns[repetition:]
                break
            say(f"repetition {repetition + 1} of {ask.repeat} done")
    for place in found.places:
        place.limit.probe()
    return found


def runners_of(ask: Ask) -> list[Runner]:
    """Slipstream first, then the peers.

    Raises:
        InputError: an unknown peer, or a venv that is none.
    """
    if OWN in ask.peers:
        raise InputError(f"peer={OWN!r}: takes part always; name only the others")
    pythons = {OWN: Path(sys.executable)}
    for name, venv in ask.peers.items():
        registry.load(PEERS, name, "peer")
        pythons[name] = python_of(venv)
    return [Runner(name, python, registry.load(PEERS, name, "peer")) for name, python in pythons.items()]


def step_bytes(path: Path) -> int:
    """Bytes of a GGUF file that a step with logits reads: all tensors, but of the embedding next to nothing unless it is the head."""
    sizes = {name: entry.end - entry.start for name, entry in gguf.read(path).tensors.items()}
    return sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)


def busy(seconds: float) -> float | None:
    """Share of all cores that is busy, or taken away from this virtual machine, over some seconds; None if the system does not say."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return 1 - (after[0] - before[0]) / (after[1] - before[1])


def _ticks() -> tuple[int, int] | None:
    """(idle, all) ticks of all cores since the start: user, nice, system, idle, waiting for disks, and so on up to stolen."""
    try:
        numbers = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (numbers[3] + numbers[4], sum(numbers)) if len(numbers) > 4 else None


def _context(point: Point) -> int:
    return point.batch * (point.prompt_tokens + point.new_tokens // 2)


def _start(runner: Runner, found: Comparison, folder: Path | None, stack: ExitStack) -> None:
    """Loads and warms up: every point once, short."""
    points = [place.point for place in found.places]
    path = folder if runner.file.WEIGHTS == "folder" else found.stored
    runner.peer = stack.enter_context(Peer(runner.name, runner.python, Path(runner.file.__file__), found.threads))
    runner.facts = runner.peer.load(path, found.threads, max(point.batch for point in points), max(point.length for point in points))
    for point in points:
        short = Point(point.batch, min(point.prompt_tokens, CONTEXT), min(point.new_tokens, WARM + 1))
        _turn(runner.peer, short, short.prompts(found.spec.vocab, -1))


def _round(found: Comparison, place: Place, repetition: int, say: Callable[[str], None]) -> None:
    """One point of one repetition: who else is there, a probe, then everybody in turn; who begins changes."""
    place.busy.append(busy(LISTEN))
    prompts = place.point.prompts(found.spec.vocab, repetition)
    taken: dict[str, dict[str, Any]] = {}
    place.limit.probe()
    first = repetition % len(found.runners)
    for runner in found.runners[first:] + found.runners[:first]:
        if not runner.failure:
            _attempt(runner, say, lambda runner=runner: taken.update({runner.name: _turn(runner.peer, place.point, prompts)}))
    place.turns.append(taken)


def _turn(peer: Peer, point: Point, prompts: list[list[int]]) -> dict[str, Any]:
    """seconds, tokens, and the likeliest next token after a prompt."""
    done = peer.prompt(prompts[0]) if point.new_tokens == 1 else peer.decode(prompts, point.new_tokens - 1)
    done.setdefault("tokens", point.prompt_tokens)
    if not done.get("seconds", 0) > 0:
        raise BackendError(f"{peer.name}: measured {done.get('seconds')!r} seconds")
    return done


def _attempt(runner: Runner, say: Callable[[str], None], what: Callable[[], None]) -> None:
    """Does it, or notes why the peer is left out. Without Slipstream there is nothing to compare."""
    try:
        what()
    except BackendError as error:
        if runner.name == OWN:
            raise
        runner.failure = str(error)
        say(f"left out: {error}")
        if runner.peer:
            runner.peer.close()
