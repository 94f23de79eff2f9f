"""The KV pool: one tensor for all layers and pages. Owns page tensors and moves between them; page ids come from outside."""

import contextlib
import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import scale_bytes
from slipstream.weights.mapping import LARGE_PAGE

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}

LINE = 64  # bytes of a cache line, at which a layer's keys and values begin
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # Windows knows no other


class KVPool:
    """Keys and values of all layers: [layers, 2, pages, kv_heads, page_size, head_dim], in int8 and fp8 with scales (ops/types.py, KV).

    Args:
        shape: as above.
        type: a key of TYPES, the KV type of the numerics profile.
        more: slots wanted besides, for rows that are no part of a text.

    Attributes:
        pages: that may be given away.
        beyond: the first of the slots wanted besides, on pages behind these.
        spare: a slot that is nobody's, on a page behind these, for rows that fill up a step; there where steps are filled up.
    """

    def __init__(self, shape: tuple[int, ...], type: str, kernels: Kernels, more: int = 0):
        row = shape[5] + scale_bytes(TYPES[type])
        layers, both, self.pages, heads, self.page_size, _ = shape
        self.beyond = self.pages * self.page_size
        beyond, spare = -(-more // self.page_size), 0
        if kernels.pads:  # and as many as make the keys and values of every layer begin at a whole line
            page = heads * self.page_size * row * TYPES[type].itemsize
            spare = next(count for count in range(1, LINE + 1) if (self.pages + beyond + count) * page % LINE == 0)
        self.tensor: Tensor = _zeros((layers, both, self.pages + beyond + spare, heads, self.page_size, row), TYPES[type], kernels.device)
        self.spare = (self.pages + beyond) * self.page_size
        self.kernels = kernels

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole pages (from, to) in all layers: copy-on-write tails."""
        for source, target in copies:
            self.tensor[:, :, target] = self.tensor[:, :, source]

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Moves token slots (from, to) in all layers, in the order given: a kept branch becomes part of the trunk."""
        if moves:
            source, target = torch.tensor(moves, dtype=torch.int32, device=self.tensor.device).t().contiguous()  # [moves] each
            self.kernels.move(self.tensor, source, target)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros. On a CPU of memory that the system clears and gives when it is first touched: a start does not wait for pages that may
    never be used."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = prod(shape) * dtype.itemsize
    raw = mmap.mmap(-1, max(size, 1), **_PRIVATE)
    _advise(raw, prod(shape[2:]) * dtype.itemsize)
    return torch.frombuffer(raw, dtype=torch.uint8)[:size].view(dtype).view(shape)


def _advise(raw: mmap.mmap, part: int) -> None:
    """Asks for large pages, which long contexts are read from faster, but for the beginning of each part (a layer's keys, or values):
    there short requests live, and clearing a large page for each of them is half the time to the first token of a small model."""
    if not hasattr(mmap, "MADV_HUGEPAGE") or part < 2 * LARGE_PAGE:
        return
    with contextlib.suppress(OSError):  # a system without large pages reads as it always does
        raw.madvise(mmap.MADV_HUGEPAGE)
        for begin in range(0, len(raw), part):
            begin -= begin % LARGE_PAGE
            raw.madvise(mmap.MADV_NOHUGEPAGE, begin, min(2 * LARGE_PAGE, len(raw) - begin))
