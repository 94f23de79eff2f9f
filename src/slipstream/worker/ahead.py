"""Ahead: a model beside goes on by itself, several tokens in one call: what it draws in one pass it reads in the next.

Owns the numbers of every pass, which are known beforehand but for the tokens: where rows lie, and with what noise they draw. What passes
do is recorded (ops/replay.py), and the host waits for nothing. Must not know who asks or why.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.model.head import Head
from slipstream.ops.replay import Replay
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows, Company, SampleRows
from slipstream.sampling.sampler import Voice
from slipstream.worker.company import Companies
from slipstream.worker.drawn import Drawn
from slipstream.worker.pool import KVPool

IDS, POSITIONS, SLOTS, REQUEST, LINEAR, NOISE = range(6)  # rows of a pass's table; NOISE: position of the token that is drawn


class Ahead:
    """
    Args:
        model: what goes on.
        pool: its KV pages.
        table: page tables. [requests, pages]
        requests: that may go on at once.
        levels: hidden states that somebody watches (`Decoder.watch`); then `states` has those of all passes.
    """

    def __init__(self, model: Decoder | Head, pool: KVPool, table: Staging, requests: int, levels: Sequence[int] = ()):
        self._levels = len(levels)
        self._kept: list[Tensor] = []  # of each pass [levels, requests, hidden]
        self._model, self._pool, self._table, self._kernels = model, pool, table, pool.kernels
        self._requests, self._device = requests, pool.kernels.device
        self._passes: list[Staging] = []  # [6, requests] each; what a pass draws are the ids of the next
        self._replays: dict[range, Replay] = {}  # passes -> their ops
        self._floats = Staging((3, requests), np.float32, self._device)  # temperature, top_p, min_p
        self._ints = Staging((2, requests), np.int32, self._device)  # top_k, sample
        self._seeds = Staging((requests,), np.int64, self._device)
        self._none = Staging((requests + 1,), np.int32, self._device)  # no row has tail slots
        self._companies = Companies(requests, pool.page_size, self._device)
        self._every = torch.arange(requests, dtype=torch.int32, device=self._device)

    def run(
        self, tokens: Sequence[int], seats: Sequence[int], places: Sequence[int], voices: Sequence[Voice], first: Sequence[int], count: int,
        last: Sequence[int] | None = None, drawn: Drawn | None = None,
    ) -> Tensor:  # fmt: skip
        """Goes on.

        Args:
            tokens: what each request reads first; of those that nobody here knows, what `drawn` wrote for them.
            seats: its row of the page tables.
            places: where that token lies; those that follow lie behind it, for which there must be room.
            voices: how it samples; without processors, which only the host can run.
            first: position of the first token drawn, for the noise.
            count: tokens to draw, at least one.
            last: the last place of each; passes that would lie behind it stay there, and what they draw means nothing. None: there is
                room for all.
            drawn: tokens of a step that may be under way still.

        Returns:
            The tokens drawn, on the device. [count, requests] int32
        """
        asked = len(tokens)
        rows = min(self._kernels.padded(asked), self._requests)
        ends = np.array(places) + count if last is None else np.array(last)
        self._lay_out(tokens, np.array(seats), np.array(places), ends, np.array(first), count, rows)
        floats, ints, seeds, params = self._floats.host, self._ints.host, self._seeds.host, [voice.params for voice in voices]
        floats[:, :asked] = [[one.temperature for one in params], [one.top_p for one in params], [one.min_p for one in params]]
        floats[0, asked:rows] = 0
        ints[:, :asked] = [[one.top_k for one in params], [voice.sample for voice in voices]]
        seeds[:asked] = [voice.seed for voice in voices]
        for staged in (self._floats, self._ints, self._seeds, *self._passes[: count + 1]):
            staged.upload()
        if drawn is not None:
            drawn.fill(self._passes[0].device[IDS, :asked])
        company = None
        if rows <= self._kernels.shares:
            company = self._companies.find(self._table.written, seats, places, [1] * asked, rows)
        for passes in self._together(count):
            if passes not in self._replays:
                self._replays[passes] = Replay(self._kernels, self._model.records)
            ops = partial(self._ops, rows, passes, company)
            self._replays[passes].run(ops, rows, (self._pool.tensor, self._table.device), shares=company is not None)
        self._states = [kept[:, :asked] for kept in self._kept[:count]]
        return torch.stack([staged.device[IDS, :asked] for staged in self._passes[1 : count + 1]])

    def _together(self, count: int) -> Sequence[range]:
        """Passes that are recorded as one: all, with one call for them; on a GPU each, for it begins when the first is launched."""
        return [range(number, number + 1) for number in range(count)] if self._kernels.pads else [range(count)]

    def states(self) -> Tensor:
        """Hidden states of the tokens that the last call read, the levels side by side. [requests, passes, levels * hidden]"""
        kept = torch.stack(self._states, 2)  # [levels, requests, passes, hidden]
        return self._model.joined(list(kept.flatten(1, 2))).unflatten(0, kept.shape[1:3])

    def _lay_out(
        self, tokens: Sequence[int], seats: np.ndarray, places: np.ndarray, last: np.ndarray, first: np.ndarray, count: int, size: int
    ) -> None:
        page = self._pool.page_size
        while len(self._passes) <= count:
            self._passes.append(Staging((6, self._requests), np.int32, self._device))
        while self._levels and len(self._kept) < count:
            self._kept.append(torch.empty(self._levels, self._requests, self._model.spec.hidden, device=self._device))
        self._passes[0].host[IDS, : len(tokens)] = tokens
        for number, staged in enumerate(self._passes[:count]):
            at, rows = np.minimum(places + number, last), staged.host[:, : len(tokens)]
            rows[POSITIONS], rows[REQUEST], rows[LINEAR], rows[NOISE] = at, seats, at + 1, first + number
            rows[SLOTS] = self._table.written[seats, at // page] * page + at % page
            staged.host[:, len(tokens) : size] = [[0], [0], [self._pool.spare], [0], [1], [0]]  # see worker/batching.py

    def _ops(self, rows: int, passes: range, company: Company | None) -> None:
        """All ops of these passes, in order."""
        floats, ints, every = self._floats.device[:, :rows], self._ints.device[:, :rows], self._every[:rows]
        for number in passes:
            now = self._passes[number].device[:, :rows]
            attention = AttentionRows(
                request=now[REQUEST],
                positions=now[POSITIONS],
                linear=now[LINEAR],
                tail_start=self._none.device[: rows + 1],
                tail_slots=self._none.device[:1],
                page_table=self._table.device,
                company=company,
            )
            batch = Batch(ids=now[IDS], positions=now[POSITIONS], slots=now[SLOTS], attention=attention)
            logits = self._model.ops(batch, self._pool.tensor, every, every if number else None)
            if self._levels:
                self._model.keep(every, [part[:rows] for part in self._kept[number]])
            choices = SampleRows(floats[0], ints[0], floats[1], floats[2], self._seeds.device[:rows], now[NOISE], ints[1])
            self._kernels.sample(logits, choices, self._passes[number + 1].device[IDS, :rows])
