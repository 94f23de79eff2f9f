"""Small unsigned numbers packed into 32-bit words, lowest bits first. Must not know which format packs what."""

import torch
from torch import Tensor


def spread(words: Tensor, bits: int, dim: int) -> Tensor:
    """int32 words -> the numbers in them, int32, each word giving 32 / bits neighbours along `dim` (0 or 1).

    Args:
        words: [a, b].
        bits: 2, 4 or 8.
    """
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    if dim == 0:
        return ((words[:, None, :] >> shifts[:, None]) & (2**bits - 1)).flatten(0, 1)
    return ((words[:, :, None] >> shifts) & (2**bits - 1)).flatten(1, 2)


def groups(count: int, size: int, k: int) -> Tensor:
    """Group of each of k inputs, int64 [k], where `size` neighbours (-1: all) share a scale and there are `count` groups."""
    return torch.arange(k) // (k if size == -1 else size) if count > 1 else torch.zeros(k, dtype=torch.int64)
