"""int8: one signed byte per weight and one fp32 scale per output channel, symmetric, round to nearest even.

Owns the stored form; must not know kernels (how they quantise activations is docs/numerics.md) or models.
"""

import torch
from torch import Tensor

from slipstream.quant.rounding import rounded
from slipstream.quant.scales import round_rows

NAME = "int8"
OP = "int8"


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" int8 [n, k], "scale" fp32 [n] = largest magnitude of the row / 127."""
    return rounded(NAME, weight) or _quantise(weight)


def _quantise(weight: Tensor) -> dict[str, Tensor]:
    quantised, scale = round_rows(weight, torch.int8, 127)
    return {"weight": quantised, "scale": scale}


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    return stored["weight"].float() * stored["scale"][:, None]


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k + 4 * n
