"""The clock: how long calls take on the device, or by the wall clock where there is none.

Owns warm-up, repetition and the choice between a graph and single launches. Must not know what is timed.

Candidates that are compared take turns, so that drift of clocks and temperature falls on all of them. A candidate is a list of
calls that do the same on different memory; going through it keeps the L2 cache cold where that is wanted.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Call = Callable[[], object]
WARM_UP = 3
ENOUGH = 200e-6  # seconds that one replay should take at least, so that an event's resolution (0.5 us) does not matter
MOST_CALLS = 200  # calls recorded in one graph
ROUNDS = (5, 60)  # fewest and most samples of a candidate
DRY_ROUNDS = 1


@dataclass(frozen=True)
class Timing:
    """Seconds per call.

    Attributes:
        median, low, high: of the samples; low and high are the 10% and 90% quantiles.
        way: "graph" (replayed), "launched" (from the host, gaps included) or "wall" (no device).
        samples: all of them.
    """

    median: float
    low: float
    high: float
    way: str
    samples: list[float] = field(repr=False, default_factory=list)

    @staticmethod
    def of(samples: Sequence[float], way: str) -> "Timing":
        ordered = sorted(samples)
        tenth = len(ordered) // 10
        return Timing(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth], way, list(samples))

    @property
    def spread(self) -> float:
        """Distance between the quantiles relative to the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


class Clock:
    """Times calls on `device`, "cuda" or "cpu"."""

    def __init__(self, device: str):
        self.device = device

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, calls: Sequence[Call], *, graph: bool = True, seconds: float = 0.02) -> Timing:
        """One candidate by itself. Raises what the call raises."""
        found = self.compare({"it": calls}, graph=graph, seconds=seconds)["it"]
        if isinstance(found, Exception):
            raise found
        return found

    def compare(
        self, candidates: Mapping[str, Sequence[Call]], *, graph: bool = True, seconds: float = 0.02
    ) -> dict[str, Timing | Exception]:
        """Times of several candidates, which take turns.

        Args:
            candidates: name -> its calls.
            graph: record the calls and time replays (kernels back to back); otherwise launch them from the host.
            seconds: of measuring per candidate, warm-up not counted.

        Returns:
            name -> Timing, or the exception of a candidate that cannot run.
        """
        runs: dict[str, tuple[Call, int]] = {}
        out: dict[str, Timing | Exception] = {}
        for name, calls in candidates.items():
            try:
                runs[name] = self._prepared(list(calls), graph)
            except Exception as error:  # a candidate that cannot run is an answer, the others go on
                self.synchronize()  # raises where the device itself is lost
                out[name] = error
        samples: dict[str, list[float]] = {name: [] for name in runs}
        rounds = {name: self._rounds(run, seconds) for name, (run, _) in runs.items()}
        for number in range(max(rounds.values(), default=0)):
            for name, (run, count) in runs.items():
                if number < rounds[name]:
                    samples[name].append(self._once(run) / count)
        way = "wall" if self.device != "cuda" else "graph" if graph else "launched"
        return out | {name: Timing.of(found, way) for name, found in samples.items()}

    def _prepared(self, calls: list[Call], graph: bool) -> tuple[Call, int]:
        """Something to time, and how many calls it makes."""
        if self.device != "cuda":
            calls[0]()
            return calls[0], 1
        for number in range(max(WARM_UP, len(calls))):
            calls[number % len(calls)]()
        torch.cuda.synchronize()
        estimate = self._once(lambda: in_turn(calls)) / len(calls)
        count = min(MOST_CALLS, max(len(calls), int(ENOUGH / max(estimate, 1e-7))))
        count = -(-count // len(calls)) * len(calls)
        order = [calls[number % len(calls)] for number in range(count)]
        if not graph:
            return lambda: in_turn(order), count
        recorded = record(lambda: in_turn(order))
        recorded.replay()
        return recorded.replay, count

    def _rounds(self, run: Call, seconds: float) -> int:
        if self.device != "cuda":
            return DRY_ROUNDS
        self._once(run)
        return int(min(ROUNDS[1], max(ROUNDS[0], seconds / max(self._once(run), 1e-7))))

    def _once(self, run: Call) -> float:
        if self.device != "cuda":
            began = time.perf_counter()
            run()
            return time.perf_counter() - began
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def in_turn(calls: Sequence[Call]) -> None:
    """Makes the calls; what they return is dropped at once, so that its memory serves the next."""
    for call in calls:
        call()


def record(call: Call) -> torch.cuda.CUDAGraph:
    """`call` as a CUDA graph; it was warmed up before on this thread."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph
