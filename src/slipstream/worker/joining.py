"""Joining: rows of a drafter that run through the last layers of the served model itself, behind a step. It is the `Forward` of
speculate/drafter.py for heads of model/heads/joining.py.

Owns where these rows lie. They see the text where the model has it, in the pages of its own pool, and one another as a draft's nodes do;
their keys and values go to slots beyond the pages that are given away, so that nobody else ever sees them:

    page table   0 ... start-1 (the text but its last token)   |   slots beyond   row of depth 0, 1, ... at position start, start + 1, ...
                 read only                                     |                  written in one pass, and written over in the next
"""

from collections.abc import Sequence

import numpy as np
import torch

from slipstream.model.batch import Batch
from slipstream.model.heads.joining import Head
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows
from slipstream.sampling.sampler import Sampler
from slipstream.speculate.drafter import Feed
from slipstream.worker.guessing import Guessing
from slipstream.worker.pool import KVPool
from slipstream.worker.slots import Slots


class Joining(Guessing):
    """See `Forward`; all that it guesses from one place comes out of one call of `run`, so there is nothing to go on from.

    Args:
        head: makes the rows.
        pool, slots: of the model that is drafted for; the pool has `requests` * `head.ahead` slots beyond its pages.
        sampler: draws.
        requests: of one call.
    """

    def __init__(self, head: Head, pool: KVPool, slots: Slots, sampler: Sampler, requests: int):
        device, ahead = str(pool.tensor.device), head.ahead
        super().__init__(head, sampler, device)
        self.max_rows, self._slots = requests, slots
        self._layers = pool.tensor[head.joins :]
        self._rows = Staging((5, requests * ahead), np.int32, device)  # ids, positions, slots, request, linear
        depths = np.tile(np.arange(1, ahead + 1), requests)  # a row sees as many slots as it is deep, the last its own
        start, tails = np.concatenate([[0], np.cumsum(depths)]), Staging((int(depths.sum()),), np.int32, device)
        self._start = Staging(start.shape, np.int32, device)
        self._start.host[:] = start
        first = pool.beyond + np.arange(requests * ahead) // ahead * ahead  # of the row's place
        tails.host[:] = np.concatenate([np.arange(at, at + depth) for at, depth in zip(first, depths, strict=True)])
        self._rows.host[2] = first + depths - 1
        self._tail_start, self._tail_slots = self._start.upload(), tails.upload()

    def reserve(self, request: int, length: int) -> bool:
        """The text lies where the model has it, and the rows have a place of their own."""
        return request in self._slots and self.ahead <= self.max_len

    def run(self, feeds: Sequence[Feed]) -> list[int]:
        hidden = self._decoder.forward(self._batch(feeds), self._layers)
        return self._guess(hidden, feeds, range(0, len(feeds) * self.ahead, self.ahead))

    def drop(self, request: int) -> None:
        """Nothing is kept."""

    def _batch(self, feeds: Sequence[Feed]) -> Batch:
        count = len(feeds) * self.ahead
        ids, positions, _, request, linear = self._rows.host[:, :count].reshape(5, len(feeds), self.ahead)
        ids[:] = [[feed.tokens[-1]] for feed in feeds]
        request[:] = [[self._slots[feed.request].index] for feed in feeds]
        depths = np.arange(self.ahead)
        positions[:] = np.minimum([[feed.start] for feed in feeds] + depths, self.max_len - 1)  # what lies beyond is never asked for
        linear[:] = positions - depths
        rows, tails = self._rows.upload()[:, :count], self._start.host[count]
        attention = AttentionRows(
            rows[3], rows[1], rows[4], self._tail_start[: count + 1], self._tail_slots[:tails], self._slots.page_table
        )
        return Batch(rows[0], rows[1], rows[2], attention, torch.cat([feed.states for feed in feeds]))
