"""How long a step will take: a guess made of bytes and operations, corrected by the steps that were seen. Owns the model of time;
knows nothing of requests, budgets or clocks.

    seconds(work) = guess(work) * correction(cell of the work)

The guess (`assumed`) knows how the cost of a step depends on its rows and its context, but not how fast this machine is. The
correction is looked up in cells: step time is a staircase in the rows (kernels have a shape of their own for each of few rows, and
tiles beyond), so a cell is one stair of rows, one octave of context and one number of passes.

Shared machines stall for a step, or slow down for minutes. In a cell the newest ratios of measured to guessed time count, by a
weighted median: one or two odd steps change nothing, the third says that times have changed. Between cells, the near and the lately
seen count most. So a shape that was once seen to be slow, and is avoided since, is believed less and less and gets another chance.

A step may take several passes, and the host's share of it is paid once. So what a pass takes in steps of several is kept in cells of its
own, which stand for steps of one only as long as nothing like these was seen.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import exp, log, log2

from slipstream.arch import ModelSpec
from slipstream.cost.roofline import GIGA, limit
from slipstream.cost.step import ATTENTION_ARITHMETIC, Work, context_sizes, kv_size, step_cost

Guess = Callable[[Work], float]

FEW = 16  # rows up to which each count is a stair of its own
STAIR = 8  # rows of the finest stair beyond; higher up a quarter of an octave
SHORT = 8  # octaves of context that count as one: below 256 visible keys a row's attention hardly matters
KEEP = 7  # ratios that a cell keeps
FADE = 0.8  # weight of a ratio against the next newer one: the newest three outvote the other four
ENOUGH = 3  # ratios that make a cell fully believed; before, a single odd step could speak for it
STALE_AFTER, STALE = 32, 0.1  # steps after which a cell not seen counts half, and the least it counts
NEAR = 1 / 64  # weight of a cell one octave of rows or passes away, against one seen itself: of the next stair about a third
WAITING = 64  # steps kept until somebody asks

# What a modest core, or a modest GPU, reaches with real kernels: GB/s, and Gop/s by kind of arithmetic. Only the first steps depend on it.
CORE = (8.0, {"fp32": 40.0, "bf16": 60.0, "int8": 120.0, "int4": 80.0})
GPU = (1000.0, {"fp32": 15e3, "bf16": 150e3, "int8": 150e3, "fp8": 150e3})
OVERHEAD = 2e-4  # seconds of a step that computes next to nothing


def stairs(most: int = 2**16) -> list[int]:
    """Row counts at which a stair ends, up to `most`."""
    out = list(range(1, FEW + 1))
    while out[-1] < most:
        octave = 1 << (out[-1].bit_length() - 1)
        out.append(out[-1] + max(STAIR, octave // 4))
    return out


EDGES = stairs()
OCTAVES = [log2(edge) for edge in EDGES]
Place = tuple[float, float, float]  # of a cell, in octaves: rows at the end of the stair; half of those of context; passes


@dataclass(slots=True)
class Cell:
    """What was seen of one stair and octave.

    Attributes:
        ratios: logarithms of measured over guessed time, the newest last.
        middle: their weighted median.
        seen: number of the step that brought the newest.
    """

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=KEEP))
    middle: float = 0.0
    seen: int = 0

    def add(self, ratio: float, step: int) -> None:
        self.ratios.append(ratio)
        self.seen = step
        weighed = sorted((ratio, FADE**age) for age, ratio in enumerate(reversed(self.ratios)))
        below = accumulate(weight for _, weight in weighed)
        half = sum(weight for _, weight in weighed) / 2
        self.middle = next(ratio for (ratio, _), weight in zip(weighed, below, strict=True) if weight >= half)


class Pace:
    """The time of steps on one machine with one model.

    Args:
        guess: seconds of a step before any was seen; only its proportions matter later on.
    """

    def __init__(self, guess: Guess):
        self._guess = guess
        self._cells: dict[Place, Cell] = {}
        self._waiting: deque[tuple[Work, float, int]] = deque(maxlen=WAITING)
        self._steps = 0

    def observe(self, work: Work, seconds: float, passes: int = 1) -> None:
        """Takes note of a step. Looked at when a prediction is asked for, so that steps that nobody plans by cost nothing.

        Args:
            work: of one pass.
            seconds: that a pass took, with its part of the host's time.
            passes: of the step.
        """
        if work.rows and seconds > 0:
            self._waiting.append((work, seconds, passes))

    def predict(self, work: Work, passes: int = 1) -> float:
        """Seconds that a pass of this work will take in a step of so many, most likely; 0 without rows."""
        if not work.rows:
            return 0.0
        self._learn()
        return self._guess(work) * exp(self._correction(_cell(work, passes)))

    def rows_within(self, seconds: float, work_of: Callable[[int], Work], most: int) -> int:
        """How many more rows a step may have.

        Args:
            seconds: that the step may take.
            work_of: the step's work with so many rows more; `work_of(0)` is what it does in any case.
            most: rows that are wanted.

        Returns:
            `most` if they fit, else what fills the highest stair that does; 0 if none does.
        """
        if most < 1 or self.predict(work_of(most)) <= seconds:
            return max(most, 0)
        base = work_of(0).rows
        choices = EDGES[bisect_right(EDGES, base) : bisect_left(EDGES, base + most)]
        low, high = 0, len(choices)  # the first `low` are known to fit (none of them is looked at twice), those from `high` on not to
        while low < high:
            middle = (low + high) // 2
            if self.predict(work_of(choices[middle] - base)) <= seconds:
                low = middle + 1
            else:
                high = middle
        return choices[low - 1] - base if low else 0

    def _learn(self) -> None:
        while self._waiting:
            work, seconds, passes = self._waiting.popleft()
            self._steps += 1
            self._cells.setdefault(_cell(work, passes), Cell()).add(log(seconds / self._guess(work)), self._steps)

    def _correction(self, place: Place) -> float:
        """Mean of the cells' medians, by how near they are, how lately they were seen and how much they have seen."""
        total = weights = 0.0
        rows, context, passes = place
        for (one, two, three), cell in self._cells.items():
            away = abs(one - rows) + abs(two - context) + abs(three - passes)
            fresh = max(STALE, 0.5 ** ((self._steps - cell.seen) / STALE_AFTER))
            weight = NEAR**away * fresh * min(len(cell.ratios), ENOUGH)
            total += weight * cell.middle
            weights += weight
        return total / weights if weights else 0.0


def _cell(work: Work, passes: int) -> Place:
    at = min(bisect_left(EDGES, work.rows), len(EDGES) - 1)
    return OCTAVES[at], max(0, (work.keys // work.rows).bit_length() - SHORT) / 2, log2(passes)


def assumed(spec: ModelSpec, weight_format: str, kv_type: str, threads: int, device: str = "cpu") -> Guess:
    """Seconds of a step on a modest machine: bytes and operations one after the other, at the speeds of CORE or GPU.

    Args:
        weight_format, kv_type, device: as for `step_cost`.
        threads: that compute, on a CPU.
    """
    speeds, many = (CORE, threads) if device == "cpu" else (GPU, 1)
    bandwidth, peaks = speeds[0] * many, {kind: peak * many for kind, peak in speeds[1].items()}

    @lru_cache(maxsize=4096)
    def rows_only(rows: int, sampled: int) -> float:
        cost = step_cost(spec, weight_format, kv_type, Work(rows, sampled, rows, rows), device=device)
        least = limit(cost, bandwidth, peaks)
        return OVERHEAD + least.memory + least.compute

    per_number = kv_size(kv_type, spec.head_dim, spec.head_dim) / spec.head_dim / (bandwidth * GIGA)
    per_operation = 1 / (peaks[ATTENTION_ARITHMETIC[device][kv_type]] * GIGA)
    context = [(window, numbers * per_number, operations * per_operation) for window, (numbers, operations) in context_sizes(spec).items()]

    def guess(work: Work) -> float:
        seconds = rows_only(work.rows, work.sampled)
        for window, per_position, per_key in context:
            keys = min(work.keys, work.rows * window) if window else work.keys  # `work.narrow` is not known of plans in the making
            seconds += (min(work.read, keys) - work.rows) * per_position + (keys - work.rows) * per_key
        return seconds

    return guess
