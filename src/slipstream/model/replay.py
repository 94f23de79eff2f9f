"""Replay: a run of ops that is recorded once and then repeated with one call, for any number of rows.

Owns the decision whether what was recorded still holds. Must not know what the ops do. Python's share of a step of a small model is
most of its time otherwise; a CUDA graph would stand behind the same two calls.
"""

from collections.abc import Callable

from torch import Tensor

from slipstream.ops.dispatch import Kernels


class Replay:
    """Runs ops at once where they cannot be recorded, else from a tape.

    Args:
        kernels: who computes; their tape records what is called between `begin` and `end`.
        records: whether the ops only call kernels and decide nothing by what these compute.
    """

    def __init__(self, kernels: Kernels, records: bool):
        self._tape = kernels.tape() if records else None
        self._bound: tuple[int, ...] | None = None
        self._kept: tuple[Tensor, ...] = ()

    def run(self, ops: Callable[[], object], rows: int, inputs: tuple[Tensor, ...], tails: int = 0) -> None:
        """Runs `ops`, or what they were when recorded.

        Args:
            ops: calls kernels, all on `rows` rows. What it decides must not change from call to call.
            rows: rows of this step.
            inputs: the tensors from outside that the ops read or write: when one of them lies elsewhere than before, the
                ops are recorded anew. What lies in one place keeps its shape, but for its rows and tails.
            tails: tail slots of the step (ops/types.py, AttentionRows).
        """
        if self._tape is None:
            ops()
            return
        bound = tuple([tensor.data_ptr() for tensor in inputs])
        if bound != self._bound:
            self._bound = None
            self._tape.begin(rows)
            try:
                ops()
            finally:
                self._tape.end()
            self._bound, self._kept = bound, inputs  # kept alive, so that no other tensor can get their addresses
        self._tape.run(rows, tails)
