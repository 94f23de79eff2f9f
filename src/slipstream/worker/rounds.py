"""Rounds: the model checks a chain of guesses, the head beside it reads what was kept and guesses on, and so several times in one step.

Owns the numbers of a round, which follow from how many guesses were right, and the three recorded runs of ops (ops/replay.py) of which it
is made: a check, a reading, the guesses. The numbers lie on the device, where ops work out those of the next round, so the host waits once,
when all rounds are over. A step of one round costs it more than a small model's pass; here that is shared by all, as passes share it
(ahead.py). Must not know who asks, nor why.

A chain lies where the text itself will lie, so rows of a check are rows of a text: nothing has to be moved, and what was wrong is written
over by the next round. The head reads all rows of a check likewise, behind which it goes on from the last that was right.
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

IDS, POSITIONS, SLOTS, REQUEST, LINEAR, NOISE = range(6)  # what the op `lay_out` says of a row
START, READ, TURN, SEAT, OWN, LAST = range(6)  # of a request; behind its last token lie its guesses
NOBODY = -1  # where a request starts and is read that only fills a step up


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


class Rows:
    """Rows of some passes of one model: where they lie, and how they are read by its ops.

    Args:
        most: rows at most.
        pool, table: pages of that model, and who has them.
        passes: how many, one after the other.
    """

    def __init__(self, most: int, pool: KVPool, table: Staging, passes: int = 1):
        self.pool, self.table, self._kernels = pool, table, pool.kernels
        self._facts = torch.zeros(passes, 6, most, dtype=torch.int32, device=pool.kernels.device)
        self._starts = torch.zeros(most + 1, dtype=torch.int32, device=pool.kernels.device)  # no row has tail slots

    def lay_out(
        self, places: Tensor, noises: Tensor, seats: Tensor, each: int, passes: int = 1, offset: int = 0, tokens: Tensor | None = None
    ) -> None:  # fmt: skip
        """See ops/reference/rounds.py."""
        size, spare, out = self.pool.page_size, self.pool.spare, self._facts[:passes]
        self._kernels.lay_out(places, noises, seats, self.table.device, size, spare, each, out, offset, tokens)

    def ids(self, rows: int) -> Tensor:
        """What the rows of the first pass read, if that was laid out."""
        return self._facts[0, IDS, :rows]

    def noise(self, number: int, rows: int) -> Tensor:
        """Positions of the tokens that a pass draws."""
        return self._facts[number, NOISE, :rows]

    def batch(self, ids: Tensor, number: int = 0) -> Batch:
        rows = len(ids)
        now = self._facts[number, :, :rows]
        keys = AttentionRows(now[REQUEST], now[POSITIONS], now[LINEAR], self._starts[: rows + 1], self._starts[:1], self.table.device)
        return Batch(ids, now[POSITIONS], now[SLOTS], keys)


class Draws:
    """How rows draw. Args: rows at most; device."""

    def __init__(self, most: int, device: str):
        self._floats, self._ints = Staging((3, most), np.float32, device), Staging((2, most), np.int32, device)  # see SampleRows
        self._seeds = Staging((most,), np.int64, device)

    def voice(self, voices: Sequence[Voice], each: int, size: int) -> None:
        """Whose they are: `each` rows of every voice, `size` of them in all with those that only fill up."""
        floats, ints, seeds, params = self._floats.host, self._ints.host, self._seeds.host, [voice.params for voice in voices]
        rows = len(voices) * each
        floats[:, :rows] = np.repeat([[one.temperature, one.top_p, one.min_p] for one in params], each, 0).T
        floats[0, rows:size] = 0
        ints[:, :rows] = np.repeat([[one.top_k, voice.sample] for one, voice in zip(params, voices, strict=True)], each, 0).T
        seeds[:rows] = np.repeat([voice.seed for voice in voices], each)
        for staged in (self._floats, self._ints, self._seeds):
            staged.upload()

    def of(self, noise: Tensor) -> SampleRows:
        """The first rows, drawing at these positions. [rows]"""
        rows = len(noise)
        floats, ints, seeds = (staged.device[..., :rows] for staged in (self._floats, self._ints, self._seeds))
        return SampleRows(floats[0], ints[0], floats[1], floats[2], seeds, noise, ints[1])


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
        device, self._device = pool.kernels.device, pool.tensor.device
        self._checks, self._reads = Rows(most, pool, table), Rows(most, beside.pool, beside.table)
        self._passes = Rows(most, beside.pool, beside.table, depth)  # of guesses
        self._checked, self._guessed = Draws(most, device), Draws(most, device)
        self._going = Staging((LAST + 1 + depth, most), np.int32, device)  # of each request
        self._said = torch.zeros(most, dtype=torch.int32, device=device)
        self._picked = torch.zeros(most, dtype=torch.int32, device=device)  # of each request the last row of its check that was right
        self._history = torch.zeros(0, 2 * most, dtype=torch.int32, device=device)  # of each round, see the op `walk`
        self._kept = torch.empty(len(model.levels), most, model.spec.hidden, device=device)
        self._every = torch.arange(most, dtype=torch.int32, device=device)
        self._replays: dict[tuple[str, int], Replay] = {}

    def run(self, going: Sequence[Going], count: int, next_: int) -> Callable[[], tuple[list[Went], float]]:
        """Launches all rounds.

        Args:
            going: who takes part, all with as many guesses.
            count: rounds.
            next_: guesses to make in the last one.

        Returns:
            What waits for them and says what came of each request, and the seconds in which guesses were made.
        """
        each, laps = 1 + len(going[0].guesses), Laps(self._device)
        size = max(len(going), min(self._kernels.padded(len(going)), self.most // each))
        self._begin(going, each, size, count)
        for number in range(count):
            guesses = each - 1 if number < count - 1 else next_
            self._run(("check", each), lambda rows: self._check(rows, each), size * each, self._checks)
            laps.mark()
            if not self._kernels.pads:
                self._bring(size * each)
            self._run(("read", each), lambda rows: self._read(rows, each), size * each, self._reads)
            if guesses:
                self._run(("guess", guesses), lambda rows, guesses=guesses: self._guess(rows, guesses), size, self._passes)
            laps.mark()
        asked, guessed = len(going), self._going.device[LAST + 1 : LAST + 1 + next_]
        spoken = Fetch(torch.cat([self._history[:count, : asked * (each + 1)].flatten(), guessed[:, :asked].flatten()]))
        return lambda: (_told(spoken.list(), asked, each, count), laps.seconds())

    def _begin(self, going: Sequence[Going], each: int, size: int, count: int) -> None:
        """What the host knows, to the device; behind those who take part as many as fill the step up."""
        asked, voices, host = len(going), [one.voice for one in going], self._going.host
        host[:, :asked] = 0
        host[: LAST + each, :asked] = np.array(
            [[one.start, one.read, 0, one.seat, self._beside.seat(one.request), one.last, *one.guesses] for one in going]
        ).T
        host[:, asked:size], host[[START, READ], asked:size] = 0, NOBODY
        self._going.upload()
        self._checked.voice(voices, each, size * each)
        self._guessed.voice(voices, 1, size)
        if len(self._history) < count:
            self._history = torch.zeros(count, 2 * self.most, dtype=torch.int32, device=self._device)

    def _check(self, rows: int, each: int) -> None:
        """What the model says at every token, `each` of a request."""
        start, seat, tokens = self._of(START, rows // each), self._of(SEAT, rows // each), self._going.device[LAST:]
        every, pool, ids = self._every[:rows], self._checks.pool.tensor, self._checks.ids(rows)
        self._checks.lay_out(start, start, seat, each, tokens=tokens)
        logits = self._model.ops(self._checks.batch(ids), pool, every, None)
        self._model.keep(every, [part[:rows] for part in self._kept])
        self._kernels.sample(logits, self._checked.of(self._checks.noise(0, rows)), self._said[:rows])

    def _bring(self, rows: int) -> None:
        """To the head the states that everything was said from. Copies, which a graph holds and a CPU's tape does not."""
        self._head.bring(self._model.joined([part[:rows] for part in self._kept]))

    def _read(self, rows: int, each: int) -> None:
        """The head reads what was said, with those states; what follows a wrong guess is written over later. Then the texts go on."""
        asked, said = rows // each, self._said[:rows]
        start, read = self._of(START, asked), self._of(READ, asked)
        if self._kernels.pads:
            self._bring(rows)
        self._reads.lay_out(read, start, self._of(OWN, asked), each)
        self._head.read(self._reads.batch(said), self._reads.pool.tensor)
        self._kernels.walk(said, self._going.device[LAST:], start, read, self._of(TURN, asked), self._picked[:asked], self._history, each)

    def _guess(self, rows: int, count: int) -> None:
        """The head's next guesses. The first is drawn where it has read what was right; each pass reads what the one before drew."""
        picked, every, pool, passes = self._picked[:rows], self._every[:rows], self._passes.pool.tensor, self._passes
        passes.lay_out(self._of(READ, rows), self._of(START, rows), self._of(OWN, rows), 1, count, offset=-1)
        logits = self._head.drawn(picked)
        for number in range(count):
            if number:
                batch = passes.batch(self._of(LAST + number, rows), number)
                logits = self._head.ops(batch, pool, every, picked if number == 1 else every)
            self._kernels.sample(logits, self._guessed.of(passes.noise(number, rows)), self._of(LAST + 1 + number, rows))

    def _of(self, fact: int, requests: int) -> Tensor:
        """What is known of the first requests."""
        return self._going.device[fact, :requests]

    def _run(self, key: tuple[str, int], ops: Callable[[int], None], rows: int, read: Rows) -> None:
        """Key: of the run of ops, which is the same but for rows."""
        replay = self._replays.get(key)
        if replay is None:
            records = self._model.records if key[0] == "check" else self._head.records
            replay = self._replays[key] = Replay(self._kernels, records)
        replay.run(lambda: ops(rows), rows, (read.pool.tensor, read.table.device, self._history))


def _told(spoken: list[int], asked: int, each: int, count: int) -> list[Went]:
    """What each request said and guessed, from the history of `count` rounds and, behind it, guesses. [guesses][asked]"""
    line, went = each + 1, []
    for number in range(asked):
        begins = [(turn * asked + number) * line for turn in range(count)]
        said = [spoken[begin + 1 : begin + 1 + spoken[begin]] for begin in begins]
        went.append(Went(said, spoken[count * asked * line + number :: asked]))
    return went
