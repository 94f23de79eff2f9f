"""Blocks of GGUF types: rows of bytes, cut into blocks that are decoded a stretch at a time. Must not know any type's layout."""

from collections.abc import Callable

import torch
from torch import Tensor

_STRETCH = 1 << 22  # values decoded at a time, so that intermediate results of a large layer never exist as a whole


def decode(rows: Tensor, width: int, values: int, part: Callable[[Tensor], Tensor]) -> Tensor:
    """All blocks of a weight.

    Args:
        rows: u8 [n, blocks of a row * width].
        width: bytes of a block.
        values: weights of a block.
        part: u8 [b, width] -> fp32 [b, values].

    Returns:
        fp32 [n, k].
    """
    n = rows.shape[0]
    blocks = rows.reshape(-1, width)
    out = torch.empty(len(blocks), values)
    stretch = max(1, _STRETCH // values)
    for at in range(0, len(blocks), stretch):
        out[at : at + stretch] = part(blocks[at : at + stretch])
    return out.view(n, -1)


def half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of every block, fp32 [b, 1]."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def nibbles(packed: Tensor) -> Tensor:
    """u8 [..., m] -> u8 [..., 2 m]: all low halves, then all high halves."""
    return torch.cat([packed & 15, packed >> 4], -1)


def bits(packed: Tensor) -> Tensor:
    """u8 [b, m] -> u8 [b, 8 m]: the bits of every byte, lowest first."""
    return ((packed[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(1)


def k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 6-bit scales and minima of Q4_K and Q5_K, u8 [b, 12] -> two fp32 [b, 8]."""
    low, mid, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = torch.cat([low & 63, (high & 15) | ((low >> 6) << 4)], 1)
    least = torch.cat([mid & 63, (high >> 4) | ((mid >> 6) << 4)], 1)
    return scale.float(), least.float()
