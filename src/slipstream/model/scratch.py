"""Scratch: the activations of a step, one arena allocated once. Owns memory and views of it; must not know what they hold.

Every buffer is [max_rows, width]; its first `rows` rows are contiguous, so a step of any size is a view. A narrower type than fp32
leaves the rest of its place unused, so that what a step takes of memory follows from the model alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slipstream.ops.types import CODES_ROOM


class Scratch:
    """Named buffers in one arena.

    Args:
        max_rows: rows of the largest step.
        shared: name -> width of the buffers that live through a whole layer.
        groups: each a name -> width of buffers that only live while one sub-layer runs, under names of its own; groups
            overlay one another.
        device: where the arena lies.
        types: name -> type of the buffers that are not fp32, but bf16 or e4m3, whose rows have CODES_ROOM more for their scale.
    """

    def __init__(
        self, max_rows: int, shared: dict[str, int], groups: Sequence[dict[str, int]] = (), device: str = "cpu",
        types: Mapping[str, torch.dtype] | None = None,
    ):  # fmt: skip
        self.max_rows, self._types = max_rows, types or {}
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
            self._views[rows] = {name: self._view(name, rows, start, width) for name, start, width in self._places}
        return self._views[rows]

    def _view(self, name: str, rows: int, start: int, width: int) -> Tensor:
        dtype = self._types.get(name, torch.float32)
        width += CODES_ROOM if dtype.itemsize == 1 else 0
        return self._arena[start:].view(dtype)[: rows * width].view(rows, width)

    def _place(self, group: dict[str, int], at: int) -> None:
        for name, width in group.items():
            self._places.append((name, self.max_rows * at, width))
            at += width
