"""The KV pool: one tensor for all layers and pages. Owns page tensors and moves between them; page ids come from outside."""

import contextlib
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.ops.dispatch import Kernels
from slipstream.ops.staging import send
from slipstream.ops.types import scale_bytes
from slipstream.weights.mapping import LARGE_PAGE

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}

LINE = 64  # bytes of a cache line, at which a layer's keys and values begin
SMALL = 256 << 10  # bytes of a head's keys, or values, in small pages: 2,048 tokens of 64 numbers in bf16
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}  # Windows knows no other


class KVPool:
    """Keys and values of all layers: [layers, 2, pages, kv_heads, page_size, head_dim], in int8 and fp8 with scales (ops/types.py, KV).

    On a GPU they lie in this order. On a CPU the pages of a head lie behind each other, since a core fetches ahead what comes next by
    itself: pages that were given away in order are one stream.

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
        self.tensor: Tensor = _zeros((layers, both, self.pages + beyond + spare, heads, self.page_size, row), TYPES[type], kernels)
        self.spare = (self.pages + beyond) * self.page_size
        self.kernels = kernels

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copies whole pages (from, to) in all layers: copy-on-write tails."""
        for source, target in copies:
            self.tensor[:, :, target] = self.tensor[:, :, source]

    def move(self, moves: Sequence[tuple[int, int]]) -> None:
        """Moves token slots (from, to) in all layers, in the order given: a kept branch becomes part of the trunk."""
        if moves:
            source, target = send(moves, self.tensor.device).t().contiguous()  # [moves] each
            self.kernels.move(self.tensor, source, target)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, kernels: Kernels) -> Tensor:
    """Zeros. On a CPU of memory that the system clears and gives when it is first touched: a start does not wait for pages that may
    never be used."""
    if kernels.device != "cpu" or kernels.pads:
        return torch.zeros(shape, dtype=dtype, device=kernels.device)
    layers, both, pages, heads, page_size, row = shape
    part = pages * page_size * row * dtype.itemsize
    large = part >= LARGE_PAGE
    apart = -(-part // LARGE_PAGE) * LARGE_PAGE if large else part
    parts = layers * both * heads
    raw = mmap.mmap(-1, parts * apart + 3 * LARGE_PAGE, **_PRIVATE)
    memory = torch.frombuffer(raw, dtype=torch.uint8)
    begin = -memory.data_ptr() % LARGE_PAGE
    if large:
        _advise(raw, begin, apart, parts)
        begin += LARGE_PAGE - SMALL
    step, token = apart // dtype.itemsize, page_size * row
    strides = (both * heads * step, heads * step, token, step, row, 1)
    return memory[begin : begin + parts * apart].view(dtype).as_strided(shape, strides)


def _advise(raw: mmap.mmap, begin: int, apart: int, parts: int) -> None:
    """Asks for large pages, which long contexts are read from faster, but for those in which a part (the keys, or values, of a head in a
    layer) begins: short requests live there, and clearing a large page for each of them is half the time to a small model's first token."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    with contextlib.suppress(OSError):  # a system without large pages reads as it always does
        raw.madvise(mmap.MADV_HUGEPAGE)
        for number in range(parts):
            raw.madvise(mmap.MADV_NOHUGEPAGE, begin + number * apart, LARGE_PAGE)
