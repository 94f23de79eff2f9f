"""Rounds: the model checks a chain of guesses, the head beside it reads what was kept and guesses on, and so several times in one step.

Owns the numbers of a round, which follow from how many guesses were right, and the three recorded lists that it runs (ops/replay.py): a
check, a reading, the guesses. A step of one round costs the host more than a small model's pass; here that is shared by all rounds, as
passes share it (ahead.py). Must not know who asks, nor why; only for CPUs, where the host sees what was drawn without waiting.

A chain lies where the text itself will lie, so rows of a check are rows of a text: nothing has to be moved, and what was wrong is written
over by the next round. The head reads all rows of a check likewise, behind which it goes on from the last that was right.
"""

import time
from collections.abc import Callable, Sequence
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
    """Rows of some passes of one model: where they lie, and how they are read by its ops.

    Args:
        most: rows at most.
        pool, table: pages of that model, and who has them.
        passes: how many, one after the other.
    """

    def __init__(self, most: int, pool: KVPool, table: Staging, passes: int = 1):
        self.pool, self.table = pool, table
        self._host = np.zeros((passes, 5, most), np.int32)
        self._tensor = torch.from_numpy(self._host)
        self._starts = torch.zeros(most + 1, dtype=torch.int32)  # no row has tail slots

    def lay_out(self, seats: np.ndarray, places: np.ndarray, first: int = 0) -> None:
        """Passes from `first` on: places [passes, rows] of seats [rows]."""
        page, now = self.pool.page_size, self._host[first : first + len(places), :, : len(seats)]
        now[:, POSITIONS], now[:, REQUEST], now[:, LINEAR] = places, seats, places + 1
        now[:, SLOTS] = self.table.host[seats, places // page] * page + places % page

    def read(self, tokens: np.ndarray) -> None:
        """What the first pass reads. [rows]"""
        self._host[0, IDS, : len(tokens)] = tokens

    def tokens(self, number: int, rows: int) -> torch.Tensor:
        return self._tensor[number, IDS, :rows]

    def drawn(self, count: int, rows: int) -> np.ndarray:
        """What the second pass and those after it read. [rows, count]"""
        return self._host[1 : count + 1, IDS, :rows].T

    def batch(self, number: int, rows: int) -> Batch:
        now = self._tensor[number, :, :rows]
        keys = AttentionRows(now[REQUEST], now[POSITIONS], now[LINEAR], self._starts[: rows + 1], self._starts[:1], self.table.device)
        return Batch(now[IDS], now[POSITIONS], now[SLOTS], keys)


class Draws:
    """How the rows of some passes draw. Args: rows at most; passes."""

    def __init__(self, most: int, passes: int = 1):
        self._floats, self._ints = np.zeros((3, most), np.float32), np.zeros((2, most), np.int32)  # see SampleRows
        self._seeds, self._positions = np.zeros(most, np.int64), np.zeros((passes, most), np.int32)
        self._tensors = [torch.from_numpy(one) for one in (self._floats, self._ints, self._seeds, self._positions)]

    def voice(self, voices: Sequence[Voice], each: int) -> None:
        """Whose they are: `each` rows of every voice."""
        rows, params = len(voices) * each, [voice.params for voice in voices]
        self._floats[:, :rows] = np.repeat([[one.temperature, one.top_p, one.min_p] for one in params], each, 0).T
        self._ints[:, :rows] = np.repeat([[one.top_k, voice.sample] for one, voice in zip(params, voices, strict=True)], each, 0).T
        self._seeds[:rows] = np.repeat([voice.seed for voice in voices], each)

    def at(self, positions: np.ndarray) -> None:
        """Positions of the tokens that are drawn. [passes, rows]"""
        self._positions[: len(positions), : positions.shape[1]] = positions

    def of(self, number: int, rows: int) -> SampleRows:
        floats, ints, seeds, positions = (one[..., :rows] for one in self._tensors)
        return SampleRows(floats[0], ints[0], floats[1], floats[2], seeds, positions[number], ints[1])


class Rounds:
    """
    Args:
        model: that checks; it keeps the levels that the head reads.
        pool, table: its pages.
        beside: the head.
        most: rows of a check at most.
        depth: guesses in a row at most.
    """

    def __init__(self, model: Decoder, pool: KVPool, table: Staging, beside: Beside, most: int, depth: int):
        self.most = most = min(most, beside.max_rows)
        self._model, self._head, self._beside, self._kernels = model, beside.head, beside, pool.kernels
        self._checks, self._reads = Rows(most, pool, table), Rows(most, beside.pool, beside.table)
        self._checked, self._said = Draws(most), torch.zeros(most, dtype=torch.int32)
        self._passes, self._drawn = Rows(most, beside.pool, beside.table, depth + 1), Draws(most, depth)  # of guesses
        self._kept = torch.empty(len(model.levels), most, model.spec.hidden)
        self._every = torch.arange(most, dtype=torch.int32)
        self._right = np.zeros(most, np.int32)  # of each request the last row of its check that was right
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
        self._checked.voice(voices, length + 1)
        self._drawn.voice(voices, 1)
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

    def _check_all(self, tokens: np.ndarray, seats: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """What the model says at every token. [requests, 1 + length]"""
        each = tokens.shape[1]
        places = (starts[:, None] + np.arange(each)).reshape(1, -1)
        self._checks.lay_out(np.repeat(seats, each), places)
        self._checks.read(tokens.ravel())
        self._checked.at(places + 1)
        self._run(self._check, self._ops_of_check, tokens.size, self._checks)
        return self._said[: tokens.size].numpy().reshape(tokens.shape).copy()

    def _ops_of_check(self, rows: int) -> None:
        every, pool = self._every[:rows], self._checks.pool
        logits = self._model.ops(self._checks.batch(0, rows), pool.tensor, every, None)
        self._model.keep(every, [part[:rows] for part in self._kept])
        self._kernels.sample(logits, self._checked.of(0, rows), self._said[:rows])

    def _read_all(self, drawn: np.ndarray, seats: np.ndarray, read: np.ndarray) -> None:
        """The head reads what was said, with the states that it was said from; what follows a wrong guess is written over later."""
        each, rows = drawn.shape[1], drawn.size
        self._reads.lay_out(np.repeat(seats, each), (read[:, None] + np.arange(each)).reshape(1, -1))
        self._reads.read(drawn.ravel())
        self._head.bring(self._model.joined([part[:rows] for part in self._kept]))
        self._run(self._read, lambda rows: self._head.read(self._reads.batch(0, rows), self._reads.pool.tensor), rows, self._reads)

    def _guess_all(
        self, right: np.ndarray, length: int, seats: np.ndarray, starts: np.ndarray, read: np.ndarray, count: int
    ) -> np.ndarray:  # fmt: skip
        """The head's next guesses. [requests, count]"""
        asked, depths = len(right), np.arange(count)[:, None]
        if not count:
            return np.zeros((asked, 0), np.int32)
        self._right[:asked] = np.arange(asked) * (length + 1) + right
        self._drawn.at(starts + 1 + depths)
        self._passes.lay_out(seats, read + depths[:-1], 1)
        replay = self._guess.setdefault(count, Replay(self._kernels, self._head.records))
        self._run(replay, lambda rows: self._ops_of_guesses(rows, count), asked, self._passes)
        return self._passes.drawn(count, asked).copy()

    def _ops_of_guesses(self, rows: int, count: int) -> None:
        """The first is drawn where the head has read what was right; each pass reads what the one before drew."""
        picked, every, pool = torch.from_numpy(self._right)[:rows], self._every[:rows], self._passes.pool.tensor
        logits = self._head.drawn(picked)
        for number in range(count):
            if number:
                logits = self._head.ops(self._passes.batch(number, rows), pool, every, picked if number == 1 else every)
            self._kernels.sample(logits, self._drawn.of(number, rows), self._passes.tokens(number + 1, rows))

    def _run(self, replay: Replay, ops: Callable[[int], None], rows: int, read: Rows) -> None:
        replay.run(lambda: ops(rows), rows, (read.pool.tensor, read.table.device))
