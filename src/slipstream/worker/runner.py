"""The runner: one step from Plan to Result.

forward all rows -> draw a token at every row that needs one -> walk each draft -> keep one path -> next drafts. Prefill,
decode and speculation take the same path through this file; a step of plain decoding, which may take several passes, is
worker/ahead.py's. Owns the order of these and nothing else: tensors belong to the pool, per-request state to the slots, the
model to the decoder.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from slipstream.model.decoder import Decoder
from slipstream.ops.staging import Staging
from slipstream.sampling.sampler import Sampler, SampleRow
from slipstream.speculate.choose import Rule
from slipstream.speculate.drafter import DraftContext, Drafter, States
from slipstream.speculate.verify.match import match
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result, TokenLogprobs
from slipstream.step.draft import EMPTY
from slipstream.worker.ahead import Ahead
from slipstream.worker.batching import Batcher, Padding
from slipstream.worker.judge import Judge
from slipstream.worker.pool import KVPool
from slipstream.worker.rounds import Going, Rounds
from slipstream.worker.slots import Slots


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the buffers must hold: rows of a step, requests that run at once and tokens of a request."""

    rows: int
    batch: int
    tokens: int


class Runner:
    """Runs plans on one device.

    Args:
        decoder: the model with its scratch.
        pool: KV pages.
        sampler: draws tokens, as many rows at a time as the decoder makes logits for.
        drafter: guesses ahead; the null drafter does not. If it is a Watcher, the decoder watches its levels.
        sizes: largest step, batch and request.
        rule: by which drafts are verified; None: match.
    """

    def __init__(
        self, decoder: Decoder, pool: KVPool, sampler: Sampler, drafter: Drafter, sizes: Sizes, rule: Rule | None = None
    ):
        self.decoder, self.pool, self.sampler, self.drafter = decoder, pool, sampler, drafter
        self._observe = getattr(drafter, "observe", None)
        self._judge = Judge(rule, sampler) if rule is not None and rule.weighs else None
        self.device = str(pool.tensor.device)
        self.slots = Slots(sizes.batch, -(-sizes.tokens // pool.page_size), decoder.spec.vocab, self.device)
        self._picked = Staging((sampler.max_rows,), np.int32, self.device)  # rows that need logits
        self._kernels = pool.kernels
        padding = Padding(self._kernels.padded, pool.spare) if self._kernels.pads else None
        self.batcher = Batcher(self.slots, pool.page_size, sizes.rows, self.device, padding)
        self._ahead = Ahead(decoder, pool, self.slots.staged, sizes.batch, decoder.levels)
        self._rounding = getattr(drafter, "rounding", None) if self._judge is None and decoder.records else None
        self._rounds: Rounds | None = None
        if self._rounding is not None:
            most = min(sampler.max_rows, sizes.rows)
            self._rounds = Rounds(decoder, pool, self.slots.staged, self._rounding.beside, most, self._rounding.depth)

    def run(self, plan: Plan) -> Result:
        for request in plan.released:
            self._release(request)
        for admission in plan.admitted:
            self.slots.admit(admission)
        if not plan.chunks:
            return Result()
        before = self._kernels.recordings
        result = self._step(plan)
        return result if self._kernels.recordings == before else replace(result, steady=False)

    def _step(self, plan: Plan) -> Result:
        self.pool.copy_pages(plan.copies)
        if self._plain(plan.chunks):
            return self._decode(plan)
        result = self._go_round(plan) if plan.passes > 1 else None
        if result is not None:
            return result
        hidden = self.decoder.forward(self.batcher.build(plan.chunks), self.pool.tensor)  # [rows, hidden]
        first = [0]
        for chunk in plan.chunks:
            first.append(first[-1] + chunk.rows)
        scores = self._scores(hidden, plan.chunks, first)
        drawn = self._draw(hidden, plan.chunks, first)
        outcomes = [
            self._keep(chunk, hidden, begin, drawn, scores.get(chunk.request)) for chunk, begin in zip(plan.chunks, first, strict=False)
        ]
        if hidden.is_cuda and not any(chunk.sample for chunk in plan.chunks):
            torch.cuda.synchronize(hidden.device)  # nobody has read what the step made, but it is over when its rows are
        began = time.perf_counter()
        if self.decoder.levels:
            self.drafter.watch(self._states(hidden, plan.chunks, first, outcomes))
        drafted = self._draft(plan.chunks, outcomes)
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

    def _decode(self, plan: Plan) -> Result:
        """A step of plain decoding, all its passes: ahead.py runs and draws."""
        slots = [self.slots[chunk.request] for chunk in plan.chunks]
        for slot, chunk in zip(slots, plan.chunks, strict=True):
            self.slots.extend_table(slot, chunk)
        self.slots.upload()
        places = [chunk.start for chunk in plan.chunks]
        size, most = self.pool.page_size, self.decoder.max_len
        last = [min(len(chunk.pages) * size, most) - 1 for chunk in plan.chunks]
        drawn = self._ahead.run(
            [chunk.trunk[0] for chunk in plan.chunks], [slot.index for slot in slots], places, [slot.voice for slot in slots],
            [place + 1 for place in places], plan.passes, last,
        )  # fmt: skip
        for slot, tokens in zip(slots, drawn, strict=True):
            slot.tokens.extend(tokens)
        outcomes = [Outcome(chunk.request, tuple(tokens)) for chunk, tokens in zip(plan.chunks, drawn, strict=True)]
        began = time.perf_counter()
        if self.decoder.levels:
            states = zip(plan.chunks, self._ahead.states(), strict=True)
            self.drafter.watch([States(chunk.request, chunk.start, own) for chunk, own in states])
        drafted = self._draft(plan.chunks, outcomes)
        return Result(tuple(drafted), time.perf_counter() - began, plan.passes)

    def _go_round(self, plan: Plan) -> Result | None:
        """A step of several checks, between which the head guesses: rounds.py runs it. None: it cannot be."""
        length = len(plan.chunks[0].draft)
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
        drafting = self._rounds.run(going, plan.passes, next_)
        outcomes = []
        for one, chunk, slot in zip(going, plan.chunks, slots, strict=True):
            tokens = tuple(token for said in one.said for token in said)
            slot.tokens.extend(tokens)
            self._rounding.went(one.request, len(tokens))
            draft = replace(DraftTree.chain(one.guesses, chunk.draft.kind, next_), again=True) if next_ else EMPTY
            outcomes.append(Outcome(one.request, tokens, draft=draft, rounds=tuple(map(len, one.said))))
        return Result(tuple(outcomes), drafting, plan.passes)

    def reset(self) -> None:
        """Forgets all requests."""
        for request in self.slots.requests():
            self._release(request)

    def _release(self, request: int) -> None:
        self.slots.release(request)
        self.drafter.drop(request)
        if self._judge is not None:
            self._judge.drop(request)

    def _draw(self, hidden: Tensor, chunks: Sequence[Chunk], first: Sequence[int]) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """A token (with its log-probability, if asked for) for the last trunk row and every node of each sampling chunk, but for drafts
        that are judged."""
        rows: list[int] = []
        asks: list[SampleRow] = []
        for chunk, begin in zip(chunks, first, strict=False):
            if chunk.sample and not (self._judge is not None and chunk.draft.tokens):
                rows.extend(range(begin + len(chunk.trunk) - 1, begin + chunk.rows))
                asks.extend(self._asks(chunk))
        for block in _blocks(len(rows), self.sampler.max_rows):
            logits = self._filled_logits(hidden, rows[block])
            yield from zip(*self.sampler.draw(logits, asks[block]), strict=True)

    def _asks(self, chunk: Chunk) -> Iterator[SampleRow]:
        """What is to be drawn at the last trunk row and at every node."""
        voice, end = self.slots[chunk.request].voice, chunk.start + len(chunk.trunk)  # position of the token that follows the trunk
        yield SampleRow(voice, end)
        for node, depth in enumerate(chunk.draft.depths() if chunk.draft.tokens else ()):
            yield SampleRow(voice, end + depth, [chunk.draft.tokens[n] for n in chunk.draft.path(node)])

    def _logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:  # -> [rows, vocab]
        return self._filled_logits(hidden, rows)[: len(rows)]

    def _filled_logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:  # -> [rows, filled up where steps are; vocab]
        size = min(self._kernels.padded(len(rows)), self.sampler.max_rows)
        picked = self._picked.host
        picked[: len(rows)], picked[len(rows) : size] = rows, 0
        return self.decoder.logits(hidden, self._picked.upload()[:size])

    def _keep(self, chunk: Chunk, hidden: Tensor, begin: int, drawn: Iterator[tuple[int, TokenLogprobs | None]], scores) -> Outcome:
        """Verifies one chunk's draft and makes the kept path part of the request."""
        if not chunk.sample:
            return Outcome(chunk.request, scores=scores)
        slot = self.slots[chunk.request]
        if not chunk.draft.tokens:
            token, logprob = next(drawn)
            kept, tokens, chosen = (), (token,), (logprob,)
        elif self._judge is not None:
            rows = range(begin + len(chunk.trunk) - 1, begin + chunk.rows)
            kept, tokens, chosen = self._judge.judge(chunk, rows, list(self._asks(chunk)), partial(self._logits, hidden))
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
        return Outcome(chunk.request, tuple(tokens), chosen if slot.voice.params.logprobs is not None else None, scores)

    def _scores(self, hidden: Tensor, chunks: Sequence[Chunk], first: Sequence[int]) -> dict[int, tuple[TokenLogprobs, ...]]:
        """Prompt log-probabilities: trunk row i scores the prompt's token at start + i + 1."""
        out = {}
        for chunk, begin in zip(chunks, first, strict=False):
            if chunk.score is None:
                continue
            slot, entries = self.slots[chunk.request], []
            last = min(len(chunk.trunk), slot.prompt - 1 - chunk.start)
            for block in _blocks(last - chunk.score, self.sampler.max_rows):
                rows = range(chunk.score + block.start, chunk.score + block.stop)
                logits = self._logits(hidden, [begin + row for row in rows])
                tokens = [slot.tokens[chunk.start + row + 1] for row in rows]
                entries.extend(self.sampler.score(logits, tokens, [slot.voice.params.prompt_logprobs] * len(tokens)))
            out[chunk.request] = tuple(entries)
        return out

    def _states(self, hidden: Tensor, chunks: Sequence[Chunk], first: Sequence[int], outcomes: Sequence[Outcome]) -> list[States]:
        """Hidden states of all trunk rows and kept nodes; those of nodes that were wrong are nobody's."""
        rows, counts = [], []
        for chunk, begin, outcome in zip(chunks, first, outcomes, strict=False):
            branch, nodes = begin + len(chunk.trunk), chunk.draft.follow(outcome.tokens[:-1])
            rows += [*range(begin, branch), *(branch + node for node in nodes)]
            counts.append(len(chunk.trunk) + len(nodes))
        taken = self.decoder.states(hidden, torch.tensor(rows, dtype=torch.int32, device=hidden.device)).split(counts)
        return [States(chunk.request, chunk.start, part) for chunk, part in zip(chunks, taken, strict=True)]

    def _draft(self, chunks: Sequence[Chunk], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Asks the drafter for the next trees of the requests that may have one; only those that said something may."""
        contexts = [self._context(chunk) for chunk in chunks if chunk.draft_budget]
        if not contexts:
            return outcomes
        trees = dict(zip((context.request for context in contexts), self.drafter.propose(contexts), strict=True))
        return [
            replace(outcome, draft=tree) if (tree := trees.get(outcome.request, EMPTY)) is not EMPTY else outcome for outcome in outcomes
        ]

    def _context(self, chunk: Chunk) -> DraftContext:
        slot = self.slots[chunk.request]
        voice = slot.voice if self._judge is None else self._judge.voice(chunk.request, slot.voice, len(slot.tokens))
        return DraftContext(chunk.request, slot.tokens, chunk.draft_budget, voice, chunk.passes, slot.prediction, slot.prompt)


def _blocks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
