"""Small unsigned numbers packed into 32-bit words or into bytes, lowest bits first. Must not know which format packs what.

A plane holds some bits of each number of a row: byte j of every LANES bytes holds inputs j, j + LANES and so on. Numbers of any width
are planes of 1, 2, 4 or 8 bits beside each other.
"""

import torch
from torch import Tensor

LANES = 16


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


def plane(parts: Tensor, bits: int) -> Tensor:
    """u8 [n, k] numbers below 2^bits -> u8 [n, k * bits / 8]; k a multiple of 8 / bits * LANES.

    Args:
        bits: 1, 2, 4 or 8.
    """
    return (parts.unflatten(1, (-1, 8 // bits, LANES)) << _shifts(parts, bits)).sum(2, dtype=torch.uint8).flatten(1)


def numbers(packed: Tensor, bits: int) -> Tensor:
    """What `plane` packed."""
    return ((packed.unflatten(1, (-1, 1, LANES)) >> _shifts(packed, bits)) & (2**bits - 1)).flatten(1)


def _shifts(like: Tensor, bits: int) -> Tensor:
    """u8 [numbers of a byte, 1]."""
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=like.device)[:, None]
