"""The runner: one step from Plan to Result.

forward all rows -> draw a token at every row that needs one -> walk each draft -> keep one path -> next drafts. Prefill,
decode and speculation take the same path through this file. Owns the order of these and nothing else: tensors belong to
the pool, per-request state to the slots, the model to the decoder.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slipstream.model.decoder import Decoder
from slipstream.sampling.sampler import Sampler, SampleRow
from slipstream.speculate.drafter import DraftContext, Drafter
from slipstream.speculate.verify import match
from slipstream.step import Chunk, Outcome, Plan, Result, TokenLogprobs
from slipstream.step.draft import EMPTY
from slipstream.worker.batching import Batcher
from slipstream.worker.pool import KVPool
from slipstream.worker.slots import Slots
from slipstream.worker.staging import Staging


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
        drafter: guesses ahead; the null drafter does not.
        sizes: largest step, batch and request.
    """

    def __init__(self, decoder: Decoder, pool: KVPool, sampler: Sampler, drafter: Drafter, sizes: Sizes):
        self.decoder, self.pool, self.sampler, self.drafter = decoder, pool, sampler, drafter
        self.device = str(pool.tensor.device)
        self.slots = Slots(sizes.batch, -(-sizes.tokens // pool.page_size), decoder.spec.vocab, self.device)
        self._picked = Staging((sampler.max_rows,), np.int32, self.device)  # rows that need logits
        self.batcher = Batcher(self.slots, pool.page_size, sizes.rows, self.device)

    def run(self, plan: Plan) -> Result:
        for request in plan.released:
            self.slots.release(request)
            self.drafter.drop(request)
        for admission in plan.admitted:
            self.slots.admit(admission)
        if not plan.chunks:
            return Result()
        self.pool.copy_pages(plan.copies)
        hidden = self.decoder.forward(self.batcher.build(plan.chunks), self.pool.tensor)  # [rows, hidden]
        first = [0]
        for chunk in plan.chunks:
            first.append(first[-1] + chunk.rows)
        scores = self._scores(hidden, plan.chunks, first)
        drawn = self._draw(hidden, plan.chunks, first)
        outcomes = [self._keep(chunk, drawn, scores.get(chunk.request)) for chunk in plan.chunks]
        began = time.perf_counter()
        drafted = tuple(self._draft(plan.chunks, outcomes))
        return Result(drafted, time.perf_counter() - began)

    def reset(self) -> None:
        """Forgets all requests."""
        for request in self.slots.requests():
            self.slots.release(request)
            self.drafter.drop(request)

    def _draw(self, hidden: Tensor, chunks: Sequence[Chunk], first: Sequence[int]) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """A token (with its log-probability, if asked for) for the last trunk row and every node of each sampling chunk."""
        rows: list[int] = []
        asks: list[SampleRow] = []
        for chunk, begin in zip(chunks, first, strict=False):
            if not chunk.sample:
                continue
            voice, last = self.slots[chunk.request].voice, begin + len(chunk.trunk) - 1
            end = chunk.start + len(chunk.trunk)  # position of the token that follows the trunk
            rows.append(last)
            asks.append(SampleRow(voice, end))
            if not chunk.draft.tokens:
                continue
            for node, depth in enumerate(chunk.draft.depths()):
                rows.append(last + 1 + node)
                asks.append(SampleRow(voice, end + depth, [chunk.draft.tokens[n] for n in chunk.draft.path(node)]))
        for block in _blocks(len(rows), self.sampler.max_rows):
            logits = self._logits(hidden, rows[block])
            yield from zip(*self.sampler.draw(logits, asks[block]), strict=True)

    def _logits(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:  # -> [rows, vocab]
        self._picked.host[: len(rows)] = rows
        return self.decoder.logits(hidden, self._picked.upload()[: len(rows)])

    def _keep(self, chunk: Chunk, drawn: Iterator[tuple[int, TokenLogprobs | None]], scores) -> Outcome:
        """Verifies one chunk's draft and makes the kept path part of the request."""
        if not chunk.sample:
            return Outcome(chunk.request, scores=scores)
        slot = self.slots[chunk.request]
        if chunk.draft.tokens:
            sampled, logprobs = zip(*(next(drawn) for _ in range(1 + len(chunk.draft))), strict=True)
            kept, tokens = match(chunk.draft, sampled)
            self.pool.move(self.batcher.moves(chunk, slot, kept))
        else:
            token, logprob = next(drawn)
            kept, tokens, logprobs = (), (token,), (logprob,)
        slot.tokens.extend(tokens)
        slot.voice.append(tokens)
        chosen = None
        if slot.voice.params.logprobs is not None:  # the entry of a token lies at the row it was drawn at: its parent's
            chosen = tuple(logprobs[row] for row in (0, *(node + 1 for node in kept)))
        return Outcome(chunk.request, tuple(tokens), chosen, scores)

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

    def _draft(self, chunks: Sequence[Chunk], outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
        """Asks the drafter for the next trees of the requests that sampled and may have one."""
        drafting = (chunk for chunk, outcome in zip(chunks, outcomes, strict=True) if outcome.tokens and chunk.draft_budget > 0)
        contexts = [self._context(chunk) for chunk in drafting]
        if not contexts:
            yield from outcomes
            return
        trees = dict(zip((c.request for c in contexts), self.drafter.propose(contexts), strict=True))
        for outcome in outcomes:
            tree = trees.get(outcome.request, EMPTY)
            yield Outcome(outcome.request, outcome.tokens, outcome.logprobs, outcome.scores, tree)

    def _context(self, chunk: Chunk) -> DraftContext:
        slot = self.slots[chunk.request]
        return DraftContext(chunk.request, slot.tokens, chunk.draft_budget, slot.voice, chunk.passes)


def _blocks(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
