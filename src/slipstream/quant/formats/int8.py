"""int8: one signed byte per weight and one fp32 scale per output channel, symmetric, round to nearest even.

Owns the stored form; must not know kernels (how they quantise activations is docs/numerics.md) or models.
"""

import torch
from torch import Tensor

from slipstream.quant.rounding import rounded

NAME = "int8"
OP = "int8"
_CHUNK = 1 << 22  # weights quantised at a time, so that the fp32 copy of a large layer never exists as a whole


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" int8 [n, k], "scale" fp32 [n] = largest magnitude of the row / 127."""
    return rounded(NAME, weight) or _quantise(weight)


def _quantise(weight: Tensor) -> dict[str, Tensor]:
    n, k = weight.shape
    quantised, scale = torch.empty(n, k, dtype=torch.int8, device=weight.device), torch.empty(n, device=weight.device)
    rows = max(1, _CHUNK // k)
    for at in range(0, n, rows):
        part = weight[at : at + rows].float()  # [rows, k]
        step = part.abs().amax(1) / 127  # [rows]
        scale[at : at + rows] = step
        divisor = torch.where(step > 0, step, 1.0)
        quantised[at : at + rows] = (part / divisor[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return {"weight": quantised, "scale": scale}


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    return stored["weight"].float() * stored["scale"][:, None]


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k + 4 * n
