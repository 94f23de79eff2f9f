"""A graph without a GPU: what ops/triton/graph.py records, on a CPU. Holds for one number of rows; tensors' own operations are part of it."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode

from slipstream.base import native


class Graph(TorchDispatchMode):
    """One recorded run of ops: kernels on tapes of the native module, what torch does in between by name. As in a capture, nobody may look
    at a number."""

    def __init__(self):
        super().__init__()
        self._parts: list[Callable[[], None]] = []

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

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), func.name()
        assert "_local_scalar_dense" not in name and "nonzero" not in name, "the host waits for the device within a capture"
        if func.is_view or "empty" in name:
            return out
        self._tape.end()
        written = any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments)
        self._parts.append(lambda *_: func(*args, **kwargs) if written else out.copy_(func(*args, **kwargs)))
        self._next()
        return out
