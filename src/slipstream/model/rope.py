"""The table of rotary angles, made once per model (docs/numerics.md, section 2). Must not know layers."""

import torch
from torch import Tensor

from slipstream.arch.spec import RopeSpec


def rope_table(rope: RopeSpec, head_dim: int, max_len: int) -> Tensor:
    """Cosine and sine of every position and pair, computed in double precision: fp32 [max_len, 2, head_dim / 2]."""
    frequencies = torch.tensor(rope.frequencies(head_dim, max_len), dtype=torch.float64)
    amplitude = torch.ones_like(frequencies)
    amplitude[: rope.pairs(head_dim)] = rope.amplitude
    table = torch.empty(max_len, 2, head_dim // 2)
    for at in range(0, max_len, 8192):  # in parts: the double-precision copy of a long table need not exist as a whole
        angles = torch.outer(torch.arange(at, min(at + 8192, max_len), dtype=torch.float64), frequencies)
        table[at : at + len(angles), 0] = angles.cos() * amplitude
        table[at : at + len(angles), 1] = angles.sin() * amplitude
    return table
