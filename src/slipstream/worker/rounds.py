"""Rounds: the model checks a chain of guesses, the head beside it reads what was kept and guesses on, and so several times in one step.

Owns the numbers of a round, which follow from how many guesses were right, and the three recorded lists that it runs (ops/replay.py): a
check, a reading, the guesses. A step of one round costs the host more than a small model's pass; here that is shared by all rounds, as
passes share it (ahead.py). Must not know who asks, nor why; only for CPUs, where the host sees what was drawn without waiting.

A chain lies where the text itself will lie, so rows of a check are rows of a text: nothing has to be moved, and what was wrong is written
over by the next round. The head reads all rows of a check likewise, behind which it goes on from the last that was right.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.ops.replay import Replay
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows, SampleRows
from slipstream.sampling.sampler import Voice
from slipstream.worker.beside import Beside
from slipstream.worker.pool import KVPool

IDS, POSITIONS, SLOTS, REQUEST, LINEAR = range(5)


@dataclass(slots=True)
class Going:
    """A request that takes part.

    Attributes:
        request: its number.
        seat: its row of the model's page tables; of the head's, Beside knows.
        start: position of its last token, which the model reads next. There is room for all rounds from there on.
        read: tokens that the head has read.
        voice: how it samples, without processors.
        last: its last token.
        guesses: that are to be checked first. [length]
        said: what it says in each round. [rounds][1 ... length + 1]
    """

    request: int
    seat: int
    start: int
    read: int
    voice: Voice
    last: int
    guesses: Sequence[int]
    said: list[list[int]] = field(default_factory=list)


class Rows:
    """Rows of a pass of one model: where they lie, and how they are read by its ops.

    Args:
        most: rows at most.
        pool, table: pages of that model, and who has them.
    """

    def __init__(self, most: int, pool: KVPool, table: Staging):
        self.pool, self.table = pool, table
        self.host = Staging((5, most), np.int32, "cpu")
        self._starts = torch.zeros(most + 1, dtype=torch.int32)  # no row has tail slots

    def lay_out(self, tokens: np.ndarray, seats: np.ndarray, places: np.ndarray) -> None:
        """Tokens at these places of these seats. [rows] each"""
        rows, page = self.host.host[:, : len(tokens)], self.pool.page_size
        rows[IDS], rows[POSITIONS], rows[REQUEST], rows[LINEAR] = tokens, places, seats, places + 1
        rows[SLOTS] = self.table.host[seats, places // page] * page + places % page

    def tokens(self, rows: int) -> torch.Tensor:
        return self.host.device[IDS, :rows]

    def batch(self, rows: int) -> Batch:
        now = self.host.device[:, :rows]
        keys = AttentionRows(now[REQUEST], now[POSITIONS], now[LINEAR], self._starts[: rows + 1], self._starts[:1], self.table.device)
        return Batch(now[IDS], now[POSITIONS], now[SLOTS], keys)


class Draws:
    """How rows draw. Args: rows at most."""

    def __init__(self, most: int):
        self.floats, self.ints = np.zeros((3, most), np.float32), np.zeros((3, most), np.int32)  # see SampleRows
        self.seeds = np.zeros(most, np.int64)
        self._tensors = [torch.from_numpy(one) for one in (self.floats, self.ints, self.seeds)]

    def voice(self, voices: Sequence[Voice], each: int) -> None:
        """Whose they are: `each` rows of every voice."""
        rows, params = len(voices) * each, [voice.params for voice in voices]
        self.floats[:, :rows] = np.repeat([[one.temperature, one.top_p, one.min_p] for one in params], each, 0).T
        self.ints[:2, :rows] = np.repeat([[one.top_k, voice.sample] for one, voice in zip(params, voices, strict=True)], each, 0).T
        self.seeds[:rows] = np.repeat([voice.seed for voice in voices], each)

    def of(self, rows: int) -> SampleRows:
        floats, ints, seeds = (one[..., :rows] for one in self._tensors)
        return SampleRows(floats[0], ints[0], floats[1], floats[2], seeds, ints[2], ints[1])


class Rounds:
    """
    Args:
        model: that checks; it keeps the levels that the head reads.
        pool, table: its pages.
        beside: the head.
        most: rows of a check at most.
    """

    def __init__(self, model: Decoder, pool: KVPool, table: Staging, beside: Beside, most: int):
        self.most = most = min(most, beside.max_rows)
        self._model, self._head, self._beside, self._kernels = model, beside.head, beside, pool.kernels
        self._checks, self._reads = Rows(most, pool, table), Rows(most, beside.pool, beside.table)
        self._checked, self._said = Draws(most), torch.zeros(most, dtype=torch.int32)
        self._passes: list[tuple[Rows, Draws]] = []  # of a guess: what is read before it, how it is drawn
        self._kept = torch.empty(len(model.levels), most, model.spec.hidden)
        self._every = torch.arange(most, dtype=torch.int32)
        self._right = torch.zeros(most, dtype=torch.int32)  # of each request the last row of its check that was right
        self._check, self._read = Replay(self._kernels, model.records), Replay(self._kernels, self._head.records)
        self._guess: dict[int, Replay] = {}

    def run(self, going: Sequence[Going], count: int, next_: int) -> float:
        """Runs.

        Args:
            going: who takes part, all with as many guesses; `said`, `start`, `read`, `last` and `guesses` are brought up to date.
            count: rounds.
            next_: guesses to make in the last one.

        Returns:
            Seconds in which guesses were made.
        """
        length, seconds = len(going[0].guesses), 0.0
        seats, own = np.array([one.seat for one in going]), np.array([self._beside.seat(one.request) for one in going])
        starts, read = np.array([one.start for one in going]), np.array([one.read for one in going])
        voices = [one.voice for one in going]
        self._prepare(voices, length, max(length, next_))
        tokens = np.array([[one.last, *one.guesses] for one in going])  # [requests, 1 + length]
        for number in range(count):
            drawn = self._check_all(tokens, seats, starts)
            began = time.perf_counter()
            right = np.cumprod(drawn[:, :-1] == tokens[:, 1:], 1).sum(1)  # guesses that were. [requests]
            for one, line, more in zip(going, drawn.tolist(), right.tolist(), strict=True):
                one.said.append(line[: more + 1])
            self._read_all(drawn, own, read)
            starts, read = starts + right + 1, read + right + 1
            guesses = self._guess_all(right, length, own, starts, read, length if number < count - 1 else next_)
            tokens = np.concatenate([drawn[np.arange(len(going)), right][:, None], guesses], 1)
            seconds += time.perf_counter() - began
        for one, start, place, line in zip(going, starts.tolist(), read.tolist(), tokens.tolist(), strict=True):
            one.start, one.read, one.last, one.guesses = start, place, line[0], line[1:]
        return seconds

    def _prepare(self, voices: Sequence[Voice], length: int, most: int) -> None:
        self._checked.voice(voices, length + 1)
        while len(self._passes) <= most:
            self._passes.append((Rows(self.most, self._beside.pool, self._beside.table), Draws(self.most)))
        for _, draws in self._passes[:most]:
            draws.voice(voices, 1)

    def _check_all(self, tokens: np.ndarray, seats: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """What the model says at every token. [requests, 1 + length]"""
        each = tokens.shape[1]
        places = (starts[:, None] + np.arange(each)).ravel()
        self._checks.lay_out(tokens.ravel(), np.repeat(seats, each), places)
        self._checked.ints[2, : len(places)] = places + 1
        self._run(self._check, self._ops_of_check, len(places), self._checks)
        return self._said[: len(places)].numpy().reshape(tokens.shape).copy()

    def _ops_of_check(self, rows: int) -> None:
        every, pool = self._every[:rows], self._checks.pool
        logits = self._model.ops(self._checks.batch(rows), pool.tensor, every, False)
        self._model.keep(every, [part[:rows] for part in self._kept])
        self._kernels.sample(logits, self._checked.of(rows), self._said[:rows])

    def _read_all(self, drawn: np.ndarray, seats: np.ndarray, read: np.ndarray) -> None:
        """The head reads what was said, with the states that it was said from; what follows a wrong guess is written over later."""
        each, rows = drawn.shape[1], drawn.size
        self._reads.lay_out(drawn.ravel(), np.repeat(seats, each), (read[:, None] + np.arange(each)).ravel())
        self._head.bring(self._model.joined([part[:rows] for part in self._kept]))
        self._run(self._read, lambda rows: self._head.read(self._reads.batch(rows), self._reads.pool.tensor), rows, self._reads)

    def _guess_all(
        self, right: np.ndarray, length: int, seats: np.ndarray, starts: np.ndarray, read: np.ndarray, count: int
    ) -> np.ndarray:  # fmt: skip
        """The head's next guesses. [requests, count]"""
        asked = len(right)
        if not count:
            return np.zeros((asked, 0), np.int32)
        self._right[:asked] = torch.from_numpy(np.arange(asked) * (length + 1) + right)
        for depth, (rows, draws) in enumerate(self._passes[:count]):
            draws.ints[2, :asked] = starts + 1 + depth
            if depth:
                rows.lay_out(np.zeros(asked, np.int32), seats, read + depth - 1)
        replay = self._guess.setdefault(count, Replay(self._kernels, self._head.records))
        self._run(replay, lambda rows: self._ops_of_guesses(rows, count), asked, self._reads)
        return np.stack([rows.host.host[IDS, :asked] for rows, _ in self._passes[1 : count + 1]], 1)

    def _ops_of_guesses(self, rows: int, count: int) -> None:
        picked, every = self._right[:rows], self._every[:rows]
        logits = self._head.drawn(picked)
        for depth, (now, draws) in enumerate(self._passes[:count]):
            if depth:
                logits = self._head.ops(now.batch(rows), now.pool.tensor, every, picked if depth == 1 else every)
            self._kernels.sample(logits, draws.of(rows), self._passes[depth + 1][0].tokens(rows))

    def _run(self, replay: Replay, ops, rows: int, read: Rows) -> None:
        replay.run(lambda: ops(rows), rows, (read.pool.tensor, read.table.device))
