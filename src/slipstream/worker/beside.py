"""Beside: a small model or a head next to the one that is served, for drafters that run one. It is the `Forward` of
speculate/drafter.py.

Owns that model's decoder, its KV pages and who holds them. Knows requests by number only; what is read and kept is the drafter's
affair.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from slipstream.cache import PagePool
from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.head import Head
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows
from slipstream.sampling.sampler import Sampler, SampleRow
from slipstream.speculate.drafter import Branch, Feed
from slipstream.worker.ahead import Ahead
from slipstream.worker.guessing import Guessing, by_path
from slipstream.worker.pool import KVPool

DEEPEST = 64  # guesses on the way to one, itself included


class Beside(Guessing):
    """A model with pages for the same requests as the one beside it.

    Args:
        decoder: the model, or a head (model/heads); its scratch bounds the rows of a call.
        pool: its pages.
        sampler: draws from its logits.
        requests: that may have room at a time.
        max_rows: tokens of one call.
    """

    def __init__(self, decoder: Decoder | Head, pool: KVPool, sampler: Sampler, requests: int, max_rows: int):
        device = str(pool.tensor.device)
        super().__init__(decoder, sampler, device)
        self.pool, self.max_rows, self.head = pool, max_rows, decoder if isinstance(decoder, Head) else None
        self._page = pool.page_size
        self._pages = PagePool(pool.pages, self._page)
        self.table = Staging((requests, -(-decoder.max_len // self._page)), np.int32, device)
        self._seats = list(range(requests))[::-1]
        self._held: dict[int, tuple[int, list[int]]] = {}  # request -> its row of the table, its pages
        self._rows = Staging((5, max_rows), np.int32, device)  # ids, positions, slots, request, linear
        self._ahead = Ahead(decoder, pool, self.table, requests)
        self._tail_start = Staging((max_rows + 1,), np.int32, device)
        self._tail_slots = Staging((max_rows * DEEPEST,), np.int32, device)
        self._goes_on = self.head is not None
        self.rounds = self._goes_on and decoder.records and self.ahead == 1  # see rounds.py
        self._hidden: Tensor | None = None  # what came out of the last call, [rows, hidden]
        self._last: dict[int, int] = {}  # request -> its last row there
        self._nodes: dict[tuple[int, int], int] = {}  # (request, place of a guess) -> its row there

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
        last = [total - 1 for total in accumulate(len(feed.tokens) for feed in feeds)]
        self._last = dict(zip((feed.request for feed in feeds), last, strict=True))
        return self._guess(hidden, feeds, last)

    def branch(self, branches: Sequence[Branch]) -> list[int]:
        batch = self._branches(branches)
        if self._goes_on:
            above = [self._nodes[one.request, one.path[-2]] if len(one.path) > 1 else self._last[one.request] for one in branches]
            batch.states = self._hidden[above]
        self._hidden = self._decoder.forward(batch, self.pool.tensor)
        self._nodes = {(one.request, one.path[-1]): row for row, one in enumerate(branches)}
        return self._draw(self._hidden, range(len(branches)), [one.ask for one in branches])

    def chain(self, feeds: Sequence[Feed], count: int) -> list[list[int]]:
        if not count:
            return [[] for _ in feeds]
        if any(by_path(feed.ask.voice) for feed in feeds):
            return self._one_by_one(feeds, count)
        if self._goes_on:
            self._decoder.bring(self._states(feeds))
        tokens, places = [feed.tokens[-1] for feed in feeds], [feed.start for feed in feeds]
        seats, voices = [self._held[feed.request][0] for feed in feeds], [feed.ask.voice for feed in feeds]
        return self._ahead.run(tokens, seats, places, voices, [feed.ask.position for feed in feeds], count).T.tolist()

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
