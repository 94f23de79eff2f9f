"""Scratch: the activations of a step, one arena allocated once. Owns memory and views of it; must not know what they hold.

Every buffer is [max_rows, width]; its first `rows` rows are contiguous, so a step of any size is a view.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Scratch:
    """Named fp32 buffers in one arena.

    Args:
        max_rows: rows of the largest step.
        shared: name -> width of the buffers that live through a whole layer.
        groups: each a name -> width of buffers that only live while one sub-layer runs, under names of its own; groups
            overlay one another.
        device: where the arena lies.
    """

    def __init__(self, max_rows: int, shared: dict[str, int], groups: Sequence[dict[str, int]] = (), device: str = "cpu"):
        self.max_rows = max_rows
        base = sum(shared.values())
        self._arena = torch.empty(max_rows * (base + max((sum(group.values()) for group in groups), default=0)), device=device)
        self._places: list[tuple[str, int, int]] = []  # name, first number, width
        self._place(shared, 0)
        for group in groups:
            self._place(group, base)
        self._views: dict[int, dict[str, Tensor]] = {}

    @property
    def bytes(self) -> int:
        return self._arena.nbytes

    def rows(self, rows: int) -> dict[str, Tensor]:
        """Name -> [rows, width]. The same objects every time, so that a step makes no tensors."""
        if rows not in self._views:
            self._views[rows] = {
                name: self._arena[start : start + rows * width].view(rows, width) for name, start, width in self._places
            }
        return self._views[rows]

    def _place(self, group: dict[str, int], at: int) -> None:
        for name, width in group.items():
            self._places.append((name, self.max_rows * at, width))
            at += width
