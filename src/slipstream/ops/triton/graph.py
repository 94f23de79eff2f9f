"""Graphs: a run of ops captured as a CUDA graph, for steps of one size. Owns captures, the memory they share, and the sizes worth one.

The counterpart of csrc/tape.h. Launching a kernel takes the host about 11 us, a node of a graph the device 1.3 us and the host nothing
(`bench gpu-suite --only launch_cost`, H200). What is captured must have run before, so that all kernels are compiled and loaded.
"""

import gc
from functools import cache
from typing import Any

import torch

SIZES = (  # of steps: a step is filled up to the next one, larger ones stay as they are; the steps between grow with what a row costs
    *(1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512),
    *(640, 768, 896, 1024, 1280, 1536, 1792, 2048),
)


def padded(rows: int) -> int:
    """Rows that a step of so many is run with."""
    return next((size for size in SIZES if size >= rows), rows)


@cache
def _memory() -> Any:
    """What all captures take their workspaces from: they never run at the same time."""
    return torch.cuda.graph_pool_handle()


class Tape:
    """One captured run of ops."""

    def begin(self, rows: int) -> None:
        """What this thread launches from here on is captured, not run."""
        self._collects = gc.isenabled()
        gc.disable()  # what it would free may call the driver, which ends a capture
        self._graph = torch.cuda.CUDAGraph()
        self._capture = torch.cuda.graph(self._graph, pool=_memory(), capture_error_mode="thread_local")
        self._capture.__enter__()

    def end(self) -> None:
        """From here on what this thread launches runs again."""
        try:
            self._capture.__exit__(None, None, None)
        finally:
            del self._capture
            if self._collects:
                gc.enable()

    def run(self, rows: int, tails: int) -> None:
        """Launches what was captured, on the current stream."""
        self._graph.replay()
