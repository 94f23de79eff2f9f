"""Beside: a small model or a head next to the one that is served, for drafters that run one. It is the `Forward` of
speculate/drafter.py.

Owns that model's decoder, its KV pages and who holds them. Knows requests by number only; what is read and kept is the drafter's
affair.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from slipstream.cache import PagePool
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.head import Head
from slipstream.ops.reference.sampling import gumbel_of
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows
from slipstream.sampling.noting import apart
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.speculate.drafter import Branch, Feed
from slipstream.worker.ahead import Ahead
from slipstream.worker.pool import KVPool

DEEPEST = 64  # guesses on the way to one, itself included
SURER = 2.0  # factor of logits at temperature 0; of 1 to 4 the best on held-out text, with a head and with a small model


class Beside:
    """A model with pages for the same requests as the one beside it.

    Args:
        decoder: the model, or a head (model/heads); its scratch bounds the rows of a call.
        pool: its pages.
        sampler: draws from its logits.
        requests: that may have room at a time.
        max_rows: tokens of one call.
    """

    def __init__(self, decoder: Decoder | Head, pool: KVPool, sampler: Sampler, requests: int, max_rows: int):
        self._decoder, self._sampler = decoder, sampler
        self.vocab, self.pool, self.head = decoder.spec.vocab, pool, decoder if isinstance(decoder, Head) else None
        self.max_rows, self.max_asks, self.max_len = max_rows, sampler.max_rows, decoder.max_len
        self._page = pool.page_size
        self._pages = PagePool(pool.pages, self._page)
        device = str(pool.tensor.device)
        self.table = Staging((requests, -(-decoder.max_len // self._page)), np.int32, device)
        self._seats = list(range(requests))[::-1]
        self._held: dict[int, tuple[int, list[int]]] = {}  # request -> its row of the table, its pages
        self._rows = Staging((5, max_rows), np.int32, device)  # ids, positions, slots, request, linear
        self._ahead = Ahead(decoder, pool, self.table, requests)
        self._tail_start = Staging((max_rows + 1,), np.int32, device)
        self._tail_slots = Staging((max_rows * DEEPEST,), np.int32, device)
        self._picked = Staging((self.max_asks,), np.int32, device)
        self._goes_on = self.head is not None
        self.rounds = self._goes_on and decoder.records and decoder.ahead == 1 and not pool.kernels.pads  # see rounds.py
        self.ahead, self._apart = (decoder.ahead, decoder.apart) if self._goes_on else (1, 0)
        self._hidden: Tensor | None = None  # what came out of the last call, [rows, hidden]
        self._last: dict[int, int] = {}  # request -> its last row there
        self._nodes: dict[tuple[int, int], int] = {}  # (request, place of a guess) -> its row there
        self._asked: list[SampleRow] = []
        self._drawn: list[int] = []
        self._logits: Tensor | None = None  # of what was asked for, [asked, vocab]

    def reserve(self, request: int, length: int) -> bool:
        seat, pages = self._held.get(request) or (self._seats[-1] if self._seats else None, [])
        missing = -(-length // self._page) - len(pages)
        if length > self.max_len or seat is None:
            return False
        if missing <= 0:
            return True
        taken = self._pages.allocate(missing)
        if taken is None:
            return False
        if request not in self._held:
            self._seats.pop()
            self._held[request] = seat, pages
        self.table.host[seat, len(pages) : len(pages) + missing] = taken
        self.table.upload()
        pages.extend(taken)
        return True

    def seat(self, request: int) -> int:
        """The request's row of `table`."""
        return self._held[request][0]

    def run(self, feeds: Sequence[Feed]) -> list[int]:
        batch = self._batch(feeds)
        if self._goes_on:
            batch.states = self._states(feeds)
        hidden = self._hidden = self._decoder.forward(batch, self.pool.tensor)  # [rows, hidden]
        asks, depths, last = [], [], -1
        self._last.clear()
        for feed in feeds:
            last += len(feed.tokens)
            self._last[feed.request] = last
            for depth, ask in enumerate((feed.ask, *feed.further) if feed.ask is not None else ()):
                self._picked.host[len(asks)] = last + depth * self._apart
                asks.append(ask)
                depths.append(depth)
        self._asked = asks
        if not asks:
            return []
        self._logits = self._decoder.logits(hidden, self._picked.upload()[: len(asks)])  # [asks, vocab]
        if any(depths) and any(_by_path(ask.voice) for ask in asks):
            self._drawn = self._draw_by_depth(depths)
        else:
            self._drawn = self._sampler.draw(self._logits, asks)[0]
        return self._drawn

    def _draw_by_depth(self, depths: Sequence[int]) -> list[int]:
        """Draws what was guessed from one place one depth after the other, so that each knows the tokens before it.

        Args:
            depths: of each token asked for; those of a feed follow each other from 0 on.
        """
        drawn = [0] * len(depths)
        for depth in range(max(depths) + 1):
            some = [at for at, other in enumerate(depths) if other == depth]
            for at in some:
                self._asked[at] = replace(self._asked[at], path=drawn[at - depth : at])
            part = self._logits[some]  # a copy, which is edited
            for at, token in zip(some, self._sampler.draw(part, [self._asked[at] for at in some])[0], strict=True):
                drawn[at] = token
            self._logits[some] = part
        return drawn

    def branch(self, branches: Sequence[Branch]) -> list[int]:
        batch = self._branches(branches)
        if self._goes_on:
            above = [self._nodes[one.request, one.path[-2]] if len(one.path) > 1 else self._last[one.request] for one in branches]
            batch.states = self._hidden[above]
        self._hidden = self._decoder.forward(batch, self.pool.tensor)
        self._nodes = {(one.request, one.path[-1]): row for row, one in enumerate(branches)}
        self._picked.host[: len(branches)] = np.arange(len(branches))
        self._asked = [one.ask for one in branches]
        self._logits = self._decoder.logits(self._hidden, self._picked.upload()[: len(branches)])
        self._drawn = self._sampler.draw(self._logits, self._asked)[0]
        return self._drawn

    def ranked(self, count: int) -> list[list[tuple[int, float]]]:
        if not self._asked:
            return []
        asked, every = self._asked, torch.arange(len(self._drawn))
        ranks, values = [], []
        for rank in range(count):
            ranks.append(self._drawn if rank == 0 else self.again())
            values.append(self._logits[every, self._drawn])
        tokens, logits = np.array(ranks).T, torch.stack(values, 1).cpu()  # [asked, count] both
        scores = shares(tokens, logits, asked).tolist()
        known = logits.isfinite().tolist()
        out = []
        for own, line, real in zip(tokens.tolist(), scores, known, strict=True):
            chosen = [at for at, token in enumerate(own) if real[at] and token not in own[:at]]  # where hardly any is left, one comes again
            out.append([(own[at], line[at]) for at in chosen])
        return out

    def chain(self, feeds: Sequence[Feed], count: int) -> list[list[int]]:
        if not count:
            return [[] for _ in feeds]
        if any(_by_path(feed.ask.voice) for feed in feeds):
            return self._one_by_one(feeds, count)
        if self._goes_on:
            self._decoder.bring(self._states(feeds))
        tokens, places = [feed.tokens[-1] for feed in feeds], [feed.start for feed in feeds]
        seats, voices = [self._held[feed.request][0] for feed in feeds], [feed.ask.voice for feed in feeds]
        return self._ahead.run(tokens, seats, places, voices, [feed.ask.position for feed in feeds], count)

    def _one_by_one(self, feeds: Sequence[Feed], count: int) -> list[list[int]]:
        """The same, a call for each token: processors act between them, or notes are made."""
        out: list[list[int]] = [[] for _ in feeds]
        for _ in range(count):
            drawn, asks = self.run(feeds), [feed.ask for feed in feeds]
            for own, token in zip(out, drawn, strict=True):
                own.append(token)
            further = [SampleRow(ask.voice, ask.position + 1, [*ask.path, token]) for ask, token in zip(asks, drawn, strict=True)]
            feeds = [Feed(f.request, f.start + 1, [token], ask) for f, token, ask in zip(feeds, drawn, further, strict=True)]
        return out

    def again(self) -> list[int]:
        if not self._asked:
            return []
        self._logits[torch.arange(len(self._drawn)), self._drawn] = float("-inf")
        self._asked = [replace(ask, voice=_anew(ask)) for ask in self._asked]
        self._drawn = self._sampler.draw(self._logits, self._asked)[0]
        return self._drawn

    def drop(self, request: int) -> None:
        seat, pages = self._held.pop(request, (None, []))
        for page in pages:
            self._pages.release(page)
        if seat is not None:
            self._seats.append(seat)

    def _states(self, feeds: Sequence[Feed]) -> Tensor:
        """What a head reads beside the tokens. [rows, levels * hidden or hidden]"""
        if feeds[0].states is not None:
            return feeds[0].states if len(feeds) == 1 else torch.cat([feed.states for feed in feeds])
        return self._hidden[[self._last[feed.request] for feed in feeds]]

    def _batch(self, feeds: Sequence[Feed]) -> Batch:
        host, table, at = self._rows.host, self.table.host, 0
        for feed in feeds:
            seat, count = self._held[feed.request][0], len(feed.tokens)
            ids, positions, slots, request, linear = host[:, at : at + count]
            places = np.arange(feed.start, feed.start + count)
            ids[:], positions[:], request[:], linear[:] = feed.tokens, places, seat, places + 1
            slots[:] = table[seat, places // self._page] * self._page + places % self._page
            at += count
        self._tail_start.host[: at + 1] = 0
        return self._upload(at, 1)  # never empty: it has an address

    def _branches(self, branches: Sequence[Branch]) -> Batch:
        """See worker/batching.py: what guesses see of each other are tail slots."""
        host, table, tails = self._rows.host, self.table.host, self._tail_slots.host
        start, count = self._tail_start.host, 0
        start[0] = 0
        for row, one in enumerate(branches):
            seat, places = self._held[one.request][0], one.start + np.array(one.path)
            cells = table[seat, places // self._page] * self._page + places % self._page
            tails[count : count + len(cells)] = cells
            count += len(cells)
            start[row + 1] = count
            host[:, row] = one.token, one.start + len(one.path) - 1, cells[-1], seat, one.start
        self._tail_slots.upload()
        return self._upload(len(branches), count)

    def _upload(self, count: int, tails: int) -> Batch:
        """The first `count` rows as they were laid out."""
        rows, start = self._rows.upload()[:, :count], self._tail_start.upload()[: count + 1]
        attention = AttentionRows(
            request=rows[3],
            positions=rows[1],
            linear=rows[4],
            tail_start=start,
            tail_slots=self._tail_slots.device[:tails],
            page_table=self.table.device,
        )
        return Batch(ids=rows[0], positions=rows[1], slots=rows[2], attention=attention)


def shares(tokens: np.ndarray, logits: Tensor, asked: Sequence[SampleRow]) -> Tensor:
    """Logarithms of the shares of the choices of some places, of which each has one in all.

    The noise is known, and with it the scores among which the greatest is drawn; how far these lie apart says more than any probability
    (docs/numerics.md, section 4). At temperature 0, where nothing but the greatest counts, two models agree on it more often than either
    is sure of it: hence SURER.

    Args:
        tokens: the choices, best first. [asked, count]
        logits: of these, -inf for such as cannot be drawn. [asked, count]
        asked: what was to be drawn there.

    Returns:
        [asked, count]
    """
    heat = torch.tensor([ask.voice.params.temperature for ask in asked])[:, None]
    scores = logits * SURER
    if heat.any():
        key = np.array([(ask.voice.seed, ask.voice.sample, ask.position) for ask in asked]).T[:, :, None]  # three of [asked, 1]
        scores = torch.where(heat > 0, logits / heat.clamp(min=1e-6) + gumbel_of(*key, tokens), scores)
    return scores.log_softmax(1)


def _by_path(voice: Voice) -> bool:
    """Whether what it draws depends on the guesses before, or is noted by them."""
    return bool(voice.processors) or voice.notes is not None


def _anew(ask: SampleRow) -> Voice:
    """Draws once more where processors have had their turn. With notes the noise is fresh: what the first choice left of the old one
    is no longer distributed as the logits say, once others have moved up among the kept ids."""
    bare = replace(ask.voice, processors=[])
    return bare if bare.notes is None else replace(apart(bare, ask.position), notes=bare.notes)
