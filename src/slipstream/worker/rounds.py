"""Rounds: the model checks a chain of guesses, the head beside it reads what was kept and guesses on, and so several times in one step.

Owns the numbers of a round, which follow from how many guesses were right, and the three recorded lists that it runs (ops/replay.py): a
check, a reading, the guesses. A step of one round costs the host more than a small model's pass; here that is shared by all rounds, as
passes share it (ahead.py). Must not know who asks, nor why.

A chain lies where the text itself will lie, so rows of a check are rows of a text: nothing has to be moved, and what was wrong is written
over by the next round. The head reads all rows of a check likewise, behind which it goes on from the last that was right.

The numbers live where the device sees them. On a CPU they are numpy's, over the memory of tensors, and worked out between the lists. A GPU
works them out itself: the same lines then act on tensors and are part of what is captured, and the host waits once, when all rounds are
over. What they make is written in place, since a graph reads and writes where it was captured.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slipstream.model.batch import Batch
from slipstream.model.decoder import Decoder
from slipstream.ops.replay import Replay
from slipstream.ops.staging import Fetch, Staging
from slipstream.ops.types import AttentionRows, SampleRows
from slipstream.sampling.sampler import Voice
from slipstream.worker.beside import Beside
from slipstream.worker.pool import KVPool

IDS, POSITIONS, SLOTS, REQUEST, LINEAR = range(5)
Numbers = Any  # a numpy array on a CPU, a tensor on a GPU: what is done with them here means the same to both


@dataclass(frozen=True, slots=True)
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
    """

    request: int
    seat: int
    start: int
    read: int
    voice: Voice
    last: int
    guesses: Sequence[int]


@dataclass(frozen=True, slots=True)
class Went:
    """What came of a request.

    Attributes:
        said: what it says in each round. [rounds][1 ... length + 1]
        guesses: the next ones.
    """

    said: list[list[int]]
    guesses: list[int]


def worked(tensor: Tensor) -> Numbers:
    """The same numbers as they are worked with: on a CPU numpy is the faster for few."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def numbers(shape: tuple[int, ...], device: torch.device) -> tuple[Numbers, Tensor]:
    """Zeros as they are worked with and as ops read them, the same memory. int32"""
    tensor = torch.zeros(shape, dtype=torch.int32, device=device)
    return worked(tensor), tensor


class Rows:
    """Rows of some passes of one model: where they lie, and how they are read by its ops.

    Args:
        most: rows at most.
        pool, table: pages of that model, and who has them.
        passes: how many, one after the other.

    Attributes:
        ids: what each pass reads. [passes, most]
    """

    def __init__(self, most: int, pool: KVPool, table: Staging, passes: int = 1):
        self.pool, self.table, device = pool, table, pool.tensor.device
        self._numbers, self._tensor = numbers((passes, 5, most), device)
        self._pages = worked(table.device)
        self._starts = torch.zeros(most + 1, dtype=torch.int32, device=device)  # no row has tail slots
        self.ids = self._numbers[:, IDS]

    def lay_out(self, seats: Numbers, places: Numbers, real: Numbers | None, first: int = 0) -> None:
        """Passes from `first` on: places [passes, rows] of seats [rows]. `real`: 0 for rows that fill a step up, which stand at position 0
        and write to a slot that is nobody's, 1 for others. [rows]"""
        if real is not None:
            places = places * real
        page, now = self.pool.page_size, self._numbers[first : first + len(places), :, : places.shape[1]]
        slots = self._pages[seats, places // page] * page + places % page
        now[:, POSITIONS], now[:, REQUEST], now[:, LINEAR] = places, seats, places + 1
        now[:, SLOTS] = slots if real is None else slots * real + self.pool.spare * (1 - real)

    def tokens(self, number: int, rows: int) -> Tensor:
        return self._tensor[number, IDS, :rows]

    def batch(self, number: int, rows: int) -> Batch:
        now = self._tensor[number, :, :rows]
        keys = AttentionRows(now[REQUEST], now[POSITIONS], now[LINEAR], self._starts[: rows + 1], self._starts[:1], self.table.device)
        return Batch(now[IDS], now[POSITIONS], now[SLOTS], keys)


class Draws:
    """How the rows of some passes draw.

    Args:
        most: rows at most.
        device: where.
        passes: how many.

    Attributes:
        positions: of the tokens that are drawn. [passes, most]
    """

    def __init__(self, most: int, device: torch.device, passes: int = 1):
        self._floats = Staging((3, most), np.float32, str(device))  # see SampleRows
        self._ints, self._seeds = Staging((2, most), np.int32, str(device)), Staging((most,), np.int64, str(device))
        self.positions, self._positions = numbers((passes, most), device)

    def voice(self, voices: Sequence[Voice], each: int, rows: int) -> None:
        """Whose they are: `each` rows of every voice, and greedy ones up to `rows`."""
        count, params = len(voices) * each, [voice.params for voice in voices]
        floats, ints, seeds = self._floats.host, self._ints.host, self._seeds.host
        floats[:, :count] = np.repeat([[one.temperature, one.top_p, one.min_p] for one in params], each, 0).T
        floats[0, count:rows] = 0
        ints[:, :count] = np.repeat([[one.top_k, voice.sample] for one, voice in zip(params, voices, strict=True)], each, 0).T
        seeds[:count] = np.repeat([voice.seed for voice in voices], each)
        for staged in (self._floats, self._ints, self._seeds):
            staged.upload()

    def of(self, number: int, rows: int) -> SampleRows:
        floats, ints, seeds = (one.device[..., :rows] for one in (self._floats, self._ints, self._seeds))
        return SampleRows(floats[0], ints[0], floats[1], floats[2], seeds, self._positions[number, :rows], ints[1])


class Laps:
    """Seconds between pairs of moments, on the device where that works by itself."""

    def __init__(self, device: torch.device):
        self._on_device = device.type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        if self._on_device:
            self._marks.append(torch.cuda.Event(enable_timing=True))
            self._marks[-1].record()
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> float:
        """Of all laps; they are over."""
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        return sum(begin.elapsed_time(end) / 1e3 if self._on_device else end - begin for begin, end in pairs)


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
        self._device = device = pool.tensor.device
        self._checks, self._reads = Rows(most, pool, table), Rows(most, beside.pool, beside.table)
        self._passes, self._drawn = Rows(most, beside.pool, beside.table, depth + 1), Draws(most, device, depth)  # of guesses
        self._checked = Draws(most, device)
        self._said, self._said_tensor = numbers((most,), device)
        self._kept = torch.empty(len(model.levels), most, model.spec.hidden, device=device)
        self._every = torch.arange(most, dtype=torch.int32, device=device)
        self._steps = worked(self._every)
        # Of requests: where the model goes on, and the head; their last tokens; guesses that were right; the row of the last of these.
        self._state, self._state_tensor = numbers((5, most), device)
        self._first = Staging((3 + depth, most), np.int32, str(device))  # the first three of these, and guesses
        self._seats = Staging((5, most), np.int32, str(device))  # of rows: the model's, the head's, real ones; of requests: the last two
        self._replays: dict[tuple, Replay] = {}

    def run(self, going: Sequence[Going], count: int, next_: int) -> Callable[[], tuple[list[Went], float]]:
        """Launches all rounds.

        Args:
            going: who takes part, all with as many guesses.
            count: rounds.
            next_: guesses to make in the last one.

        Returns:
            What waits for them and says what came of each request, and the seconds in which guesses were made.
        """
        length, laps, log = len(going[0].guesses), Laps(self._device), []
        size = self._begin(going, length)
        for number in range(count):
            guesses = length if number < count - 1 else next_
            self._run(("check", length), self._ready_check, self._check, size * (length + 1), self._checks, size, length)
            laps.mark()
            self._run(("read", length), self._ready_read, self._read, size * (length + 1), self._reads, size, length)
            if guesses:
                self._run(("guess", length, guesses), self._ready_guesses, self._guess, size, self._passes, size, length, guesses)
            laps.mark()
            log += [self._said_tensor[: size * (length + 1)].clone(), self._state_tensor[3, :size].clone()]
        log += [self._passes.tokens(number + 1, size).clone() for number in range(next_)]
        fetch = Fetch(torch.cat(log))
        return lambda: (_told(fetch.list(), len(going), size, length, count, next_), laps.seconds())

    def _begin(self, going: Sequence[Going], length: int) -> int:
        """Brings what the rounds begin with to the device. Returns how many requests they are run with."""
        asked, each = len(going), length + 1
        size = max(asked, min(self._kernels.padded(asked), self.most // each))
        first, seats = self._first.host, self._seats.host
        own = [self._beside.seat(one.request) for one in going]
        first[: 3 + length, :size] = 0
        first[: 3 + length, :asked] = np.array([(one.start, one.read, one.last, *one.guesses) for one in going]).T
        for row, values in enumerate((np.repeat([one.seat for one in going], each), np.repeat(own, each), 1, own, 1)):
            seats[row, : size * each] = 0
            seats[row, : asked * each if row < 3 else asked] = values
        self._first.upload()
        self._seats.upload()
        voices = [one.voice for one in going]
        self._checked.voice(voices, each, size * each)
        self._drawn.voice(voices, 1, size)
        began = worked(self._first.device)
        self._state[:3, :size] = began[:3, :size]
        self._passes.ids[1:each, :size] = began[3 : 3 + length, :size]
        return size

    def _of_rows(self, row: int, count: int) -> Numbers:
        """One of `_seats`; which rows are real only where some are not."""
        if row in (2, 4) and not self._kernels.pads:
            return None
        return worked(self._seats.device)[row, :count]

    def _ready_check(self, size: int, length: int) -> None:
        """The rows of a check: the last token of each request and its guesses."""
        rows = size * (length + 1)
        places = (self._state[0, :size, None] + self._steps[: length + 1]).reshape(1, rows)
        tokens = self._checks.ids[0, :rows].reshape(size, length + 1)
        tokens[:, 0], tokens[:, 1:] = self._state[2, :size], self._passes.ids[1 : length + 1, :size].T
        self._checks.lay_out(self._of_rows(0, rows), places, self._of_rows(2, rows))
        self._checked.positions[:, :rows] = places + 1

    def _check(self, rows: int) -> None:
        every, pool = self._every[:rows], self._checks.pool
        logits = self._model.ops(self._checks.batch(0, rows), pool.tensor, every, None)
        self._model.keep(every, [part[:rows] for part in self._kept])
        self._kernels.sample(logits, self._checked.of(0, rows), self._said_tensor[:rows])

    def _ready_read(self, size: int, length: int) -> None:
        """The head reads what was said, with the states that it was said from; what follows a wrong guess is written over later."""
        rows = size * (length + 1)
        tokens, said = (one[:rows].reshape(size, length + 1) for one in (self._checks.ids[0], self._said))
        starts, read, last, right, row = self._state[:, :size]
        places = (read[:, None] + self._steps[: length + 1]).reshape(1, rows)
        self._reads.lay_out(self._of_rows(1, rows), places, self._of_rows(2, rows))
        self._reads.ids[0, :rows] = self._said[:rows]
        self._head.bring(self._model.joined([part[:rows] for part in self._kept]))
        right[:] = (said[:, :-1] == tokens[:, 1:]).cumprod(1).sum(1)
        row[:] = self._steps[:size] * (length + 1) + right
        last[:] = said[self._steps[:size], right]
        starts += right + 1
        read += right + 1

    def _read(self, rows: int) -> None:
        self._head.read(self._reads.batch(0, rows), self._reads.pool.tensor)

    def _ready_guesses(self, size: int, length: int, count: int) -> None:
        """Where the head's guesses lie, and the noise of those that will be checked there."""
        depths = self._steps[:count, None]
        self._drawn.positions[:count, :size] = self._state[0, :size] + 1 + depths
        if count > 1:
            self._passes.lay_out(self._of_rows(3, size), self._state[1, :size] + depths[:-1], self._of_rows(4, size), 1)

    def _guess(self, rows: int, count: int) -> None:
        """The first is drawn where the head has read what was right; each pass reads what the one before drew."""
        picked, every, pool = self._state_tensor[4, :rows], self._every[:rows], self._passes.pool.tensor
        logits = self._head.drawn(picked)
        for number in range(count):
            if number:
                logits = self._head.ops(self._passes.batch(number, rows), pool, every, picked if number == 1 else every)
            self._kernels.sample(logits, self._drawn.of(number, rows), self._passes.tokens(number + 1, rows))

    def _run(self, key: tuple, ready: Callable, ops: Callable, rows: int, read: Rows, size: int, length: int, *count: int) -> None:
        """Makes a list's numbers and runs it; on a GPU both are what is captured."""
        replay = self._replays.get(key)
        if replay is None:
            records = self._model.records if key[0] == "check" else self._head.records
            replay = self._replays[key] = Replay(self._kernels, records)

        def all_() -> None:
            if self._kernels.pads:
                ready(size, length, *count)
            ops(rows, *count)

        if not self._kernels.pads:
            ready(size, length, *count)
        replay.run(all_, rows, (read.pool.tensor, read.table.device))


def _told(log: list[int], asked: int, size: int, length: int, count: int, next_: int) -> list[Went]:
    """What each request said and guessed, from what was noted of every round."""
    each = length + 1
    round_ = size * (each + 1)  # numbers noted: what was said, and how many guesses were right
    said: list[list[list[int]]] = [[] for _ in range(asked)]
    for begin in range(0, count * round_, round_):
        right = log[begin + size * each : begin + round_]
        for at, lines in enumerate(said):
            first = begin + at * each
            lines.append(log[first : first + right[at] + 1])
    guesses = log[count * round_ :]
    return [Went(lines, guesses[at::size]) for at, lines in enumerate(said)]
