"""What drafters bring: tokens per step, acceptance by depth and speed-up over no speculation, on text that the model does not know and on
text that repeats itself; and what a drafter costs that is always wrong.

Owns the texts, the turns and what is counted. Both engines of a turn are at hand at once and say a few tokens each by turns, so that
drift of a shared machine falls on both; the speed-up is the median over turns. Their texts must be the same, or the run fails. Two
engines that do the same may differ by some percent all the same, by where their weights lie: `none` as a drafter shows it.

Greedy text of a small model runs in circles, which flatters drafters: the share of tokens that end a repeated stretch stands beside.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from slipstream.base.errors import BackendError, InputError
from slipstream.bench.driver import STEP_ROWS
from slipstream.engine.limit import Limit
from slipstream.engine.llm import LLM
from slipstream.engine.tally import Tally
from slipstream.speculate.drafter import DraftContext
from slipstream.step import DraftTree, SamplingParams

TEMPERATURES = (0.0, 0.8)
PROMPT = 128  # tokens
COPIES = 3  # of a passage, before it begins once more: a prompt that invites to copy
STRIDE = 24  # tokens of each request that an engine says before it is the other's turn
REPEATED = 4  # tokens that make a stretch
WRONG = "wrong"  # not a drafter to choose: random tokens, to see what being wrong costs


@dataclass(frozen=True, slots=True)
class Place:
    """One line of the table: which text, how many requests at once, how they sample."""

    text: str
    batch: int
    temperature: float


@dataclass(slots=True)
class Score:
    """What a drafter did at a place.

    Attributes:
        ratios: per turn, how many times as fast as without it.
        rates: tokens per second, drafted and plain, per turn.
        share: of the machine's limit, per turn, drafted.
        tally: over all turns.
        repetition: share of the new tokens that end a stretch seen before.
    """

    drafter: str
    place: Place
    ratios: list[float] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    repetition: float = 0.0

    @property
    def speedup(self) -> float:
        return median(self.ratios)


class Wrong:
    """A drafter whose guesses are random tokens."""

    def __init__(self, vocab: int, nodes: int = 6):
        self.max_draft, self._vocab, self._random = nodes, vocab, random.Random(1)

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [DraftTree.chain([self._random.randrange(self._vocab) for _ in range(self.max_draft)], WRONG) for _ in contexts]

    def drop(self, request: int) -> None:
        return None


@dataclass(frozen=True)
class Ask:
    """What to measure.

    Attributes:
        texts: (title, text) that the model does not know.
        drafters: as for `speculate`, or WRONG.
        batches, temperatures, new_tokens: the grid.
        repeat: turns at each place.
        options: of both engines.
    """

    model: str | None
    texts: Sequence[tuple[str, str]]
    drafters: Sequence[str]
    batches: Sequence[int]
    new_tokens: int
    repeat: int
    temperatures: Sequence[float] = TEMPERATURES
    options: dict[str, Any] = field(default_factory=dict)


def run(ask: Ask, say: Callable[[str], None] = lambda line: None) -> tuple[LLM, list[Score], Limit]:
    """Measures; returns the engine without speculation, one Score per drafter and place, and the limit.

    Raises:
        InputError: the model has no tokenizer, or the texts are too short.
        BackendError: a drafter changed a text.
    """
    plain = engine(ask, "none")
    config = plain.engine.config
    prompts = made_prompts(plain, ask)
    limit = Limit(config.spec, config.weight_format, config.kv, config.threads, max(ask.batches) * PROMPT)
    scores = []
    for drafter in ask.drafters:
        drafted = engine(ask, Wrong(config.spec.vocab) if drafter == WRONG else drafter)
        for place in [Place(text, batch, heat) for text in prompts for heat in ask.temperatures for batch in ask.batches]:
            score = measured(Score(drafter, place), plain, drafted, prompts[place.text], ask, limit)
            where = f"{drafter}, {place.text}, T={place.temperature}, batch {place.batch}"
            say(f"{where}: {score.tally.per_step:.2f} tokens per step, x{score.speedup:.2f}")
            scores.append(score)
        drafted.close()
    return plain, scores, limit


def engine(ask: Ask, drafter: Any) -> LLM:
    sizes = {"max_batch": max(ask.batches), "max_step_tokens": STEP_ROWS, "max_len": PROMPT + ask.new_tokens}
    return LLM(ask.model, **{**sizes, "prefix_cache": False, **ask.options}, speculate=drafter)


def made_prompts(llm: LLM, ask: Ask) -> dict[str, list[list[int]]]:
    """Kind of text -> prompts, enough for the largest batch."""
    tokenizer, wanted = llm.engine.intake.tokenizer, max(ask.batches)
    if tokenizer is None:
        raise InputError(f"model={ask.model!r}: has no tokenizer, so it cannot read; take a model with one")
    ids = [token for _, text in ask.texts for token in tokenizer.encode(text, special=False)]
    stride = (len(ids) - PROMPT) // wanted
    if stride < 1:
        raise InputError(f"texts: {len(ids)} tokens are too few for {wanted} prompts of {PROMPT}; give longer ones")
    books = [ids[at * stride : at * stride + PROMPT] for at in range(wanted)]
    length = PROMPT * 2 // (2 * COPIES + 1)  # the passage once more, half of it
    return {"book": books, "copy": [(one[:length] * (COPIES + 1))[:PROMPT] for one in books]}


def measured(score: Score, plain: LLM, drafted: LLM, prompts: list[list[int]], ask: Ask, limit: Limit) -> Score:
    """Turns at one place; the first one, in which both learn, does not count."""
    place, said = score.place, []
    before = drafted.engine.core.meter.tally.copy()
    for turn in range(ask.repeat + 1):
        asked = prompts[: place.batch]
        params = SamplingParams(max_tokens=ask.new_tokens, temperature=place.temperature, seed=turn, ignore_eos=True)
        limit.probe()
        begin = len(drafted.engine.core.meter.steps)
        texts, times = side_by_side((plain, drafted) if turn % 2 else (drafted, plain), asked, params)
        if texts[plain] != texts[drafted]:
            raise BackendError(f"{score.drafter}: another text than without it at {place}, seed {turn}")
        if turn == 0:
            before = drafted.engine.core.meter.tally.copy()
            continue
        tokens = place.batch * ask.new_tokens
        score.ratios.append(times[plain] / times[drafted])
        score.rates.append((tokens / times[drafted], tokens / times[plain]))
        score.share.append(limit.share(drafted.engine.core.meter.steps[begin:], times[drafted]))
        said += [repetition(prompt, new) for prompt, new in zip(asked, texts[plain], strict=True)]
    score.tally = drafted.engine.core.meter.tally.since(before)
    score.repetition = sum(said) / len(said)
    return score


def side_by_side(llms: Sequence[LLM], prompts: Sequence[list[int]], params: SamplingParams) -> tuple[dict, dict]:
    """(texts, seconds) of each engine. They take turns of STRIDE tokens, however many steps that takes, so that both see the same
    weather."""
    texts, times, busy, goal = {}, dict.fromkeys(llms, 0.0), list(llms), 0
    for llm in llms:
        made = [llm.engine.intake.request(prompt, params) for prompt in prompts]
        texts[llm] = [output.outputs[0] for output, _ in made]
        llm.engine.core.submit([ticket for _, tickets in made for ticket in tickets])
    while busy:
        goal += STRIDE * len(prompts)
        for llm in list(busy):
            began = time.perf_counter()
            while sum(len(output.token_ids) for output in texts[llm]) < goal:
                if not llm.engine.core.step():
                    busy.remove(llm)
                    break
            times[llm] += time.perf_counter() - began
    return {llm: [output.token_ids for output in texts[llm]] for llm in llms}, times


def repetition(prompt: Sequence[int], new: Sequence[int]) -> float:
    """Share of the new tokens whose last REPEATED tokens, themselves included, stood in prompt or text before."""
    tokens, seen, found = [*prompt, *new], set(), 0
    for end in range(REPEATED, len(tokens) + 1):
        stretch = tuple(tokens[end - REPEATED : end])
        found += end > len(prompt) and stretch in seen
        seen.add(stretch)
    return found / len(new)
