"""The runner: one step from Plan to Result.

    launch   forward all rows -> draw a token at every row that needs one
    finish   wait for these -> walk each draft -> keep one path -> next drafts

Prefill, decode and speculation take the same path through this file; a step of plain decoding, which may take several passes, is
worker/ahead.py's. The first half waits for nothing that the device makes, so the next step may be launched before the second, if it is
known where it begins: if nothing was drafted. Owns the order of these and nothing else: tensors belong to the pool, per-request state to
the slots, the model to the decoder.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, chain

import numpy as np
from torch import Tensor

from slipstream.base.errors import BackendError
from slipstream.model.decoder import Decoder
from slipstream.ops.staging import Fetch, Staging, send
from slipstream.sampling.sampler import Drawing, Sampler, SampleRow, Scoring
from slipstream.speculate.choose import Rule
from slipstream.speculate.drafter import DraftContext, Drafter, States
from slipstream.speculate.verify.match import match
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result, TokenLogprobs
from slipstream.step.draft import EMPTY
from slipstream.step.plan import UNKNOWN
from slipstream.worker.ahead import Ahead
from slipstream.worker.batching import Batcher, Padding
from slipstream.worker.drawn import Drawn
from slipstream.worker.judge import Judge
from slipstream.worker.pool import KVPool
from slipstream.worker.rounds import Going, Rounds, Went
from slipstream.worker.slots import Slot, Slots


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the buffers must hold: rows of a step, requests that run at once and tokens of a request."""

    rows: int
    batch: int
    tokens: int


Finish = Callable[[], Result]


@dataclass(slots=True)
class Step:
    """A step between its launch and its end.

    Attributes:
        chunks, slots: of its requests.
        hidden: what the model made; valid until the next step. [rows, hidden]
        first: row of each chunk's first, and the end.
        guessed: whether guesses are checked.
        scores: log-probabilities of prompts, by request.
        drawings: the tokens of all rows that draw, in order.
    """

    chunks: Sequence[Chunk]
    slots: Sequence[Slot]
    hidden: Tensor
    first: Sequence[int]
    guessed: bool
    scores: dict[int, list[Scoring]] = field(default_factory=dict)
    drawings: list[Drawing] = field(default_factory=list)


class Runner:
    """Runs plans on one device.

    Args:
        decoder: the model with its scratch.
        pool: KV pages.
        sampler: draws tokens, as many rows at a time as the decoder makes logits for.
        drafter: guesses ahead; the null drafter does not. If it is a Watcher, the decoder watches its levels.
        sizes: largest step, batch and request.
        rule: by which drafts are verified; None: match.
        slots: of its requests, where the drafter looks into them too; see `slots_of`.
    """

    def __init__(
        self, decoder: Decoder, pool: KVPool, sampler: Sampler, drafter: Drafter, sizes: Sizes, rule: Rule | None = None,
        slots: Slots | None = None,
    ):  # fmt: skip
        self.decoder, self.pool, self.sampler, self.drafter = decoder, pool, sampler, drafter
        self._observe = getattr(drafter, "observe", None)
        self._judge = Judge(rule, sampler) if rule is not None and rule.weighs else None
        self.device = str(pool.tensor.device)
        self.slots = slots or slots_of(sizes, pool, decoder.spec.vocab)
        self._picked = Staging((sampler.max_rows,), np.int32, self.device)  # rows that need logits
        self._kernels = pool.kernels
        padding = Padding(self._kernels.padded, pool.spare, self._kernels.shares, self._kernels.mixes) if self._kernels.pads else None
        self.batcher = Batcher(self.slots, pool.page_size, sizes.rows, self.device, padding)
        self._ahead = Ahead(decoder, pool, self.slots.staged, sizes.batch, decoder.levels)
        self._rounding = getattr(drafter, "rounding", None) if self._judge is None and decoder.records else None
        self._rounds: Rounds | None = None
        self._drawn: Drawn | None = None  # by the last step that was launched
        if self._rounding is not None:
            most = min(sampler.max_rows, sizes.rows)
            self._rounds = Rounds(decoder, pool, self.slots.staged, self._rounding.beside, most, self._rounding.depth)

    def launch(self, plan: Plan) -> Finish:
        """Starts a step. What it returns waits for the end of the step and says what came of it; steps end in the order of their launch."""
        for request in plan.released:
            self._release(request)
        for admission in plan.admitted:
            self.slots.admit(admission)
        if not plan.chunks:
            return Result
        before = self._kernels.recordings
        finish = self._launch(plan)
        return finish if self._kernels.recordings == before else lambda: replace(finish(), steady=False)

    def run(self, plan: Plan) -> Result:
        """A step from its beginning to its end."""
        return self.launch(plan)()

    def _launch(self, plan: Plan) -> Finish:
        self.pool.copy_pages(plan.copies)
        if self._plain(plan.chunks):
            return self._decode(plan)
        rounds = self._go_round(plan) if plan.passes > 1 else None
        if rounds is not None:
            return rounds
        chunks, slots = plan.chunks, [self.slots[chunk.request] for chunk in plan.chunks]
        batch = self.batcher.build(chunks, self._drawn if _unknown(chunks, slots) else None)
        hidden = self.decoder.forward(batch, self.pool.tensor)  # [rows, hidden]
        first, guessed = [0, *accumulate(chunk.rows for chunk in chunks)], any(chunk.draft.tokens for chunk in chunks)
        step = Step(chunks, slots, hidden, first, guessed)
        step.scores = self._scores(step)
        step.drawings = self._draw(step)
        if not step.guessed:  # the next step may be launched before this one is over
            self._watch(step)
            self._drawn = Drawn([one.tokens for one in step.drawings], [chunk.request for chunk in chunks if chunk.sample])
        over = Fetch(hidden[:1, :1].clone()) if not step.drawings else None
        return partial(self._finish, step, over)

    def _finish(self, step: Step, over: Fetch | None) -> Result:
        if over is not None:
            over.list()  # nobody has read what the step made, but it is over when its rows are
        drawn = chain.from_iterable(zip(*drawing.result(), strict=True) for drawing in step.drawings)
        outcomes = [self._keep(step, at, drawn) for at in range(len(step.chunks))]
        began = time.perf_counter()
        if step.guessed:
            self._watch(step, outcomes)
        drafted = self._draft(step.chunks, step.slots, outcomes)
        return Result(tuple(drafted), time.perf_counter() - began)

    def _plain(self, chunks: Sequence[Chunk]) -> bool:
        """Whether a step of these only draws a token for each row, and nobody here looks at it before the next: no processor, nobody who
        wants log-probabilities."""
        if len(chunks) > self.sampler.max_rows:
            return False
        if any(len(chunk.trunk) > 1 or chunk.draft.tokens or not chunk.sample or chunk.score is not None for chunk in chunks):
            return False
        voices = (self.slots[chunk.request].voice for chunk in chunks)
        return all(not voice.processors and voice.params.logprobs is None for voice in voices)

    def _decode(self, plan: Plan) -> Finish:
        """A step of plain decoding, all its passes: ahead.py runs and draws."""
        chunks, slots = plan.chunks, [self.slots[chunk.request] for chunk in plan.chunks]
        for slot, chunk in zip(slots, chunks, strict=True):
            self.slots.extend_table(slot, chunk)
        self.slots.upload()
        places, drawn = [chunk.start for chunk in chunks], self._drawn if _unknown(chunks, slots) else None
        trunks = [chunk.trunk for chunk in chunks] if drawn is None else drawn.trunks(chunks)
        size, most = self.pool.page_size, self.decoder.max_len
        last = [min(len(chunk.pages) * size, most) - 1 for chunk in chunks]
        tokens = self._ahead.run(
            [trunk[0] for trunk in trunks], [slot.index for slot in slots], places, [slot.voice for slot in slots],
            [place + 1 for place in places], plan.passes, last, drawn,
        )  # fmt: skip
        self._drawn = Drawn([tokens[-1]], [chunk.request for chunk in chunks])
        began = time.perf_counter()
        if self.decoder.levels:
            states = zip(chunks, self._ahead.states(), strict=True)
            self.drafter.watch([States(chunk.request, chunk.start, own) for chunk, own in states])
        return partial(self._decoded, plan, slots, Fetch(tokens), time.perf_counter() - began)

    def _decoded(self, plan: Plan, slots: Sequence[Slot], tokens: Fetch, drafting: float) -> Result:
        outcomes = []
        for chunk, slot, own in zip(plan.chunks, slots, zip(*tokens.list(), strict=True), strict=True):
            slot.tokens.extend(own)
            outcomes.append(Outcome(chunk.request, own))
        began = time.perf_counter()
        drafted = self._draft(plan.chunks, slots, outcomes)
        return Result(tuple(drafted), drafting + time.perf_counter() - began, plan.passes)

    def _go_round(self, plan: Plan) -> Finish | None:
        """A step of several checks, between which the head guesses: rounds.py runs it. None: it cannot be."""
        length = len(plan.chunks[0].draft)
        if not length:  # it had to be a step of plain decoding
            raise BackendError(f"passes={plan.passes}: the host has to see what is drawn, or more than {self.sampler.max_rows} rows draw")
        most = max(min(min(chunk.passes, chunk.draft_budget) for chunk in plan.chunks), 0)
        if self._rounds is None or len(plan.chunks) * (length + 1) > self._rounds.most:
            return None
        slots, next_ = [self.slots[chunk.request] for chunk in plan.chunks], min(most, self._rounding.depth)
        read = [self._rounding.begins(chunk.request, plan.passes * (length + 1) + next_) for chunk in plan.chunks]
        if None in read or any(slot.voice.processors or slot.voice.params.logprobs is not None for slot in slots):
            return None
        for slot, chunk in zip(slots, plan.chunks, strict=True):
            self.slots.extend_table(slot, chunk)
        self.slots.upload()
        going = [
            Going(chunk.request, slot.index, chunk.start, place, slot.voice, chunk.trunk[0], chunk.draft.tokens)
            for chunk, slot, place in zip(plan.chunks, slots, read, strict=True)
        ]
        return partial(self._went_round, plan, slots, self._rounds.run(going, plan.passes, next_))

    def _went_round(self, plan: Plan, slots: Sequence[Slot], rounds: Callable[[], tuple[list[Went], float]]) -> Result:
        (went, drafting), outcomes = rounds(), []
        for one, chunk, slot in zip(went, plan.chunks, slots, strict=True):
            tokens = tuple(token for said in one.said for token in said)
            slot.tokens.extend(tokens)
            self._rounding.went(chunk.request, len(tokens))
            draft = replace(DraftTree.chain(one.guesses, chunk.draft.kind, len(one.guesses)), again=True) if one.guesses else EMPTY
            outcomes.append(Outcome(chunk.request, tokens, draft=draft, rounds=tuple(map(len, one.said))))
        return Result(tuple(outcomes), drafting, plan.passes)

    def reset(self) -> None:
        """Forgets all requests, and the steps under way."""
        self._drawn = None
        for request in self.slots.requests():
            self._release(request)

    def _release(self, request: int) -> None:
        self.slots.release(request)
        self.drafter.drop(request)
        if self._judge is not None:
            self._judge.drop(request)

    def _draw(self, step: Step) -> list[Drawing]:
        """Draws a token (with its log-probability, if asked for) for the last trunk row and every node of each sampling chunk, but for
        drafts that are judged."""
        rows: list[int] = []
        asks: list[SampleRow] = []
        for chunk, slot, begin in zip(step.chunks, step.slots, step.first, strict=False):
            if chunk.sample and not (self._judge is not None and chunk.draft.tokens):
                rows.extend(range(begin + len(chunk.trunk) - 1, begin + chunk.rows))
                asks.extend(_asks(chunk, slot))
        blocks = _blocks(len(rows), self.sampler.max_rows)
        return [self.sampler.start(self._filled_logits(step.hidden, rows[block]), asks[block]) for block in blocks]

    def _logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:  # -> [rows, vocab]
        return self._filled_logits(hidden, rows)[: len(rows)]

    def _filled_logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:  # -> [rows, filled up where steps are; vocab]
        size = min(self._kernels.padded(len(rows)), self.sampler.max_rows)
        picked = self._picked.host
        picked[: len(rows)], picked[len(rows) : size] = rows, 0
        return self.decoder.logits(hidden, self._picked.upload()[:size])

    def _keep(self, step: Step, at: int, drawn: Iterator[tuple[int, TokenLogprobs | None]]) -> Outcome:
        """Verifies one chunk's draft and makes the kept path part of the request."""
        chunk, slot, begin = step.chunks[at], step.slots[at], step.first[at]
        scores = step.scores.get(chunk.request)
        scored = None if scores is None else tuple(entry for part in scores for entry in part.result())
        if not chunk.sample:
            return Outcome(chunk.request, scores=scored)
        if not chunk.draft.tokens:
            token, logprob = next(drawn)
            kept, tokens, chosen = (), (token,), (logprob,)
        elif self._judge is not None:
            rows = range(begin + len(chunk.trunk) - 1, begin + chunk.rows)
            kept, tokens, chosen = self._judge.judge(chunk, rows, list(_asks(chunk, slot)), partial(self._logits, step.hidden))
        else:
            sampled, logprobs = zip(*(next(drawn) for _ in range(1 + len(chunk.draft))), strict=True)
            kept, tokens = match(chunk.draft, sampled)
            if self._observe is not None:
                self._observe(chunk.request, chunk.draft, sampled)
            chosen = tuple(logprobs[row] for row in (0, *(node + 1 for node in kept)))  # that of a token lies where it was drawn
        if chunk.draft.tokens:
            self.pool.move(self.batcher.moves(chunk, slot, kept))
        slot.tokens.extend(tokens)
        slot.voice.append(tokens)
        return Outcome(chunk.request, tuple(tokens), chosen if slot.voice.params.logprobs is not None else None, scored)

    def _scores(self, step: Step) -> dict[int, list[Scoring]]:
        """Prompt log-probabilities: trunk row i scores the prompt's token at start + i + 1."""
        out = {}
        for chunk, slot, begin in zip(step.chunks, step.slots, step.first, strict=False):
            if chunk.score is None:
                continue
            last, out[chunk.request] = min(len(chunk.trunk), slot.prompt - 1 - chunk.start), []
            for block in _blocks(last - chunk.score, self.sampler.max_rows):
                rows = range(chunk.score + block.start, chunk.score + block.stop)
                logits = self._logits(step.hidden, [begin + row for row in rows])
                tokens = send([slot.tokens[chunk.start + row + 1] for row in rows], logits.device)
                out[chunk.request].append(self.sampler.start_scores(logits, tokens, [slot.voice.params.prompt_logprobs] * len(tokens)))
        return out

    def _watch(self, step: Step, outcomes: Sequence[Outcome] | None = None) -> None:
        """Shows the drafter the hidden states of all trunk rows and kept nodes; those of nodes that were wrong are nobody's."""
        if not self.decoder.levels:
            return
        rows, counts = [], []
        for at, (chunk, begin) in enumerate(zip(step.chunks, step.first, strict=False)):
            branch, nodes = begin + len(chunk.trunk), () if outcomes is None else chunk.draft.follow(outcomes[at].tokens[:-1])
            rows += [*range(begin, branch), *(branch + node for node in nodes)]
            counts.append(len(chunk.trunk) + len(nodes))
        taken = self.decoder.states(step.hidden, send(rows, step.hidden.device)).split(counts)
        self.drafter.watch([States(chunk.request, chunk.start, part) for chunk, part in zip(step.chunks, taken, strict=True)])

    def _draft(self, chunks: Sequence[Chunk], slots: Sequence[Slot], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Asks the drafter for the next trees of the requests that may have one; only those that said something may."""
        contexts = [self._context(chunk, slot) for chunk, slot in zip(chunks, slots, strict=True) if chunk.draft_budget]
        if not contexts:
            return outcomes
        trees = dict(zip((context.request for context in contexts), self.drafter.propose(contexts), strict=True))
        return [
            replace(outcome, draft=tree) if (tree := trees.get(outcome.request, EMPTY)) is not EMPTY else outcome for outcome in outcomes
        ]

    def _context(self, chunk: Chunk, slot: Slot) -> DraftContext:
        voice = slot.voice if self._judge is None else self._judge.voice(chunk.request, slot.voice, len(slot.tokens))
        return DraftContext(chunk.request, slot.tokens, chunk.draft_budget, voice, chunk.passes, slot.prediction, slot.prompt)


def _unknown(chunks: Sequence[Chunk], slots: Sequence[Slot]) -> bool:
    """Whether there are tokens that the host does not know.

    Raises:
        BackendError: somebody here had to see one of them.
    """
    unknown = [slot for chunk, slot in zip(chunks, slots, strict=True) if chunk.trunk[0] == UNKNOWN]
    if any(slot.voice.processors for slot in unknown):
        raise BackendError("a step was planned before the last token of a request was known, and the request's logits are edited by it")
    return bool(unknown)


def _asks(chunk: Chunk, slot: Slot) -> Iterator[SampleRow]:
    """What is to be drawn at the last trunk row and at every node."""
    end = chunk.start + len(chunk.trunk)  # position of the token that follows the trunk
    yield SampleRow(slot.voice, end)
    for node, depth in enumerate(chunk.draft.depths() if chunk.draft.tokens else ()):
        yield SampleRow(slot.voice, end + depth, [chunk.draft.tokens[n] for n in chunk.draft.path(node)])


def slots_of(sizes: Sizes, pool: KVPool, vocab: int) -> Slots:
    """Slots for requests of these sizes on the pages of a pool."""
    return Slots(sizes.batch, -(-sizes.tokens // pool.page_size), vocab, str(pool.tensor.device))


def _blocks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
