"""Replay: a run of ops that is recorded once and then repeated with one call.

Owns the decision whether what was recorded still holds. Must not know what the ops do, nor how they are recorded: as a list for any number
of rows on the CPU (csrc/tape.h), as a CUDA graph for one number (ops/triton/graph.py). Python's share of a step of a small model is most of
its time otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slipstream.ops.dispatch import Kernels


@dataclass(slots=True)
class _Recorded:
    """A tape, where what it reads and writes lay, and those tensors, so that no others can get their addresses."""

    tape: Any
    bound: tuple[int, ...]
    kept: tuple[Tensor, ...]


class Replay:
    """Runs ops at once where they cannot be recorded, else from a tape.

    Args:
        kernels: who computes; their tapes record what is called between `begin` and `end`.
        records: whether the ops only call kernels and decide nothing by what these compute.
    """

    def __init__(self, kernels: Kernels, records: bool):
        self._kernels, self._spare = kernels, kernels.tape() if records else None
        self._records = self._spare is not None
        self._recorded: dict[tuple, _Recorded] = {}
        self._seen: dict[tuple, tuple[int, ...]] = {}  # where the tensors of a step of some size lay that ran without a tape

    def run(self, ops: Callable[[], object], rows: int, inputs: tuple[Tensor, ...], tails: int = 0, shares: bool = False) -> None:
        """Runs `ops`, or what they were when recorded.

        Args:
            ops: calls kernels, all on `rows` rows. What it decides must not change from call to call.
            rows: rows of this step.
            inputs: the tensors from outside that the ops read or write: when one of them lies elsewhere than before, the
                ops are recorded anew. What lies in one place keeps its shape, but for its rows and tails.
            tails: tail slots of the step (ops/types.py, AttentionRows).
            shares: whether some of its rows are in company.
        """
        if not self._records:
            ops()
            return
        bound = tuple([tensor.data_ptr() for tensor in inputs])
        size = (rows, tails > 0, shares) if self._kernels.pads else ()
        recorded = self._recorded.get(size)
        if recorded is None or recorded.bound != bound:
            self._kernels.recordings += 1
            if self._kernels.pads and self._seen.get(size) != bound:
                self._seen[size] = bound  # a capture pays if the same comes again, and needs kernels that have run
                ops()
                return
            recorded = self._record(ops, rows, bound, inputs, size)
        recorded.tape.run(rows, tails)

    def _record(self, ops: Callable[[], object], rows: int, bound: tuple[int, ...], inputs: tuple[Tensor, ...], size: tuple) -> _Recorded:
        old = self._recorded.pop(size, None)
        tape = old.tape if old is not None else self._spare or self._kernels.tape()
        self._spare = None
        tape.begin(rows)
        try:
            ops()
        finally:
            tape.end()
        self._recorded[size] = _Recorded(tape, bound, inputs)
        return self._recorded[size]
