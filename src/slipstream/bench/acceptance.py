"""Traces of acceptance: at every place of a text, how many guesses of a drafter were right.

Owns the file (JSON lines), and how it is recorded. Must not know what is done with it (replay.py).

    {"trace": 1, "drafter": "eagle:depth=8,width=1", "model": "demo"}
    {"temperature": 0.8, "drafted": [8, 8, ...], "right": [2, 0, ...]}        one line per request

Place i is that after the request's token i, 0 first: `drafted` guesses were made there, the first `right` of which the text went on with.
No guess is checked while recording, so every place is seen, and what would have come of any depth, at any place, can be read off later.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError
from slipstream.bench.speculation import Ask, engine, made_prompts
from slipstream.engine.outputs import RequestOutput
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import DraftContext, Drafter, States
from slipstream.step import DraftTree, SamplingParams
from slipstream.step.draft import EMPTY

VERSION = 1
DEEP = "eagle:nodes=8,depth=8,width=1"  # recorded where nobody says what
REQUESTS = 32  # of each temperature


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request: guesses made, and right ones, at each place. [places]"""

    temperature: float
    drafted: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What a drafter guessed.

    Attributes:
        drafter: as for `speculate`.
        model: name of the one that it guessed for.
    """

    drafter: str
    model: str
    requests: tuple[Recorded, ...]

    @property
    def deepest(self) -> int:
        return max(max(one.drafted) for one in self.requests)

    def at(self, temperature: float) -> list[Recorded]:
        """The requests that sampled with it.

        Raises:
            InputError: there is none; says which temperatures there are.
        """
        found = [one for one in self.requests if one.temperature == temperature]
        if not found:
            heats = ", ".join(f"{heat:g}" for heat in sorted({one.temperature for one in self.requests}))
            raise InputError(f"temperature={temperature:g}: the trace has requests at {heats}; choose one of these")
        return found


def per_step(requests: Sequence[Recorded], depth: int) -> float:
    """Tokens per step, if `depth` guesses are checked at most wherever there are some."""
    tokens = steps = 0
    for one in requests:
        place = 0
        while place < len(one.right):
            said = 1 + min(one.right[place], depth)
            place, tokens, steps = place + said, tokens + said, steps + 1
    return tokens / steps


def read(path: Path) -> Trace:
    """A trace.

    Raises:
        InputError: it cannot be read; names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"trace {path}: {error}; record one with slipstream bench speculation --record FILE") from None
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1)]
    if not rows or rows[0].get("trace") != VERSION or not all(isinstance(rows[0].get(name), str) for name in ("drafter", "model")):
        raise InputError(f'{path}:1: must be {{"trace": {VERSION}, "drafter": ..., "model": ...}}; record it again with --record')
    if len(rows) < 2:
        raise InputError(f"{path}:2: no request follows; record it again with --record")
    return Trace(rows[0]["drafter"], rows[0]["model"], tuple(_request(path, number, row) for number, row in enumerate(rows[1:], start=2)))


def write(trace: Trace, path: Path) -> None:
    head = {"trace": VERSION, "drafter": trace.drafter, "model": trace.model}
    path.write_text("".join(json.dumps(row) + "\n" for row in (head, *map(asdict, trace.requests))), encoding="utf-8")


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{number}: is not JSON ({error}); record it again with --record") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: is {line[:40]!r}, not an object; record it again with --record")
    return row


def _request(path: Path, number: int, row: dict[str, Any]) -> Recorded:
    heat, counts = row.get("temperature"), []
    if isinstance(heat, bool) or not isinstance(heat, int | float) or not 0 <= heat < float("inf"):
        raise InputError(f"{path}:{number}: temperature={heat!r} must be a number, not negative")
    for name in ("drafted", "right"):
        values = row.get(name)
        if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
            raise InputError(f"{path}:{number}: {name} must be a list of whole numbers, none negative")
        counts.append(tuple(values))
    drafted, right = counts
    if not drafted or len(drafted) != len(right):
        raise InputError(f"{path}:{number}: drafted has {len(drafted)} places and right {len(right)}; they need as many, and one at least")
    for place, (made, good) in enumerate(zip(drafted, right, strict=True)):
        if good > made:
            raise InputError(f"{path}:{number}: at place {place} right is {good}, but drafted only {made}")
    return Recorded(float(heat), drafted, right)


class Recorder:
    """Keeps what another drafter guesses, and guesses nothing itself.

    Attributes:
        trees: (request, its tokens then) -> guess.
    """

    def __init__(self, other: Drafter):
        self.max_draft, self._other = other.max_draft, other
        self.trees: dict[tuple[int, int], DraftTree] = {}

    def watch(self, states: Sequence[States]) -> None:
        self._other.watch(states)

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        for context, tree in zip(contexts, self._other.propose(contexts), strict=True):
            self.trees[context.request, len(context.tokens)] = tree
        return [EMPTY] * len(contexts)

    def drop(self, request: int) -> None:
        self._other.drop(request)

    def recorded(self, request: int, output: RequestOutput, heat: float, places: int) -> Recorded:
        """What is known of a request that has ended, `places` of it."""
        prompt, said = len(output.prompt_token_ids), output.outputs[0].token_ids
        trees = [self.trees.pop((request, prompt + place), EMPTY) for place in range(1, places + 1)]
        right = tuple(len(tree.follow(said[place:])) for place, tree in enumerate(trees, start=1))
        return Recorded(heat, tuple(max(tree.depths(), default=0) for tree in trees), right)


def record(ask: Ask, say: Callable[[str], None] = lambda line: None) -> Trace:
    """Records the drafter of an ask (its only one) on its texts, which the model does not know: `new_tokens` places of each request of
    its (only) batch, at each of its temperatures.

    Raises:
        InputError: the drafter is none that guesses, the model has no tokenizer, or the texts are too short.
    """
    [drafter], places = ask.drafters, ask.new_tokens
    ahead = choose(drafter).max_draft
    if not ahead:
        raise InputError(f"drafter={drafter!r}: never guesses, so there is nothing to record; take another")
    whole = replace(ask, new_tokens=places + ahead + 1, options={**ask.options, "control": False})
    llm = engine(whole, drafter)
    core, runner = llm.engine.core, llm.engine.executor.runner
    recorder = runner.drafter = Recorder(runner.drafter)
    found = []
    for heat in ask.temperatures:
        made = []
        for number, prompt in enumerate(made_prompts(llm, ask)["book"]):
            # where log-probabilities are asked for a step is one pass, so that no place is passed over
            params = SamplingParams(max_tokens=whole.new_tokens, temperature=heat, seed=number, ignore_eos=True, logprobs=0)
            made.append(llm.engine.intake.request(prompt, params))
        core.submit([ticket for _, tickets in made for ticket in tickets])
        while core.step():
            pass
        own = [recorder.recorded(tickets[0].request.number, output, heat, places) for output, tickets in made]
        say(f"T={heat:g}: {per_step(own, ahead):.2f} tokens per step")
        found += own
    name = llm.engine.config.model_name
    llm.close()
    return Trace(drafter, name, tuple(found))
