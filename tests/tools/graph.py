"""A graph without a GPU: what ops/triton/graph.py records, on a CPU. Holds for one number of rows; torch's copies are part of it."""

from collections.abc import Callable

from torch.overrides import TorchFunctionMode

from slipstream.base import native

COPIES = {"copy_", "cat", "clone"}  # all that torch does in what is captured
LOOKS = {"item", "tolist", "nonzero", "cpu", "numpy", "__bool__", "__int__", "__float__"}


class Graph(TorchFunctionMode):
    """One recorded run of ops: kernels on tapes of the native module, copies between them. As in a capture, nobody may look at a number."""

    def __init__(self):
        super().__init__()
        self._parts: list[Callable[[int, int], object]] = []

    def begin(self, rows: int) -> None:
        self._parts, self._rows = [], rows
        self._next()
        self.__enter__()

    def end(self) -> None:
        self.__exit__(None, None, None)
        self._tape.end()

    def run(self, rows: int, tails: int) -> None:
        assert rows == self._rows, "a graph holds for the number of rows with which it was captured"
        for part in self._parts:
            part(rows, tails)

    def _next(self) -> None:
        self._tape = native.module.Tape()
        self._tape.begin(self._rows)
        self._parts.append(self._tape.run)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.__name__
        assert name not in LOOKS, f"{name}: the host waits for the device within a capture"
        out = func(*args, **kwargs)
        if name in COPIES:
            self._tape.end()
            self._parts.append(lambda *_: func(*args, **kwargs) if name == "copy_" else out.copy_(func(*args, **kwargs)))
            self._next()
        return out
