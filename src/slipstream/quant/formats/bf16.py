"""bf16: the upper half of a 32-bit float, widened exactly when used. Owns the stored form; must not know kernels or models."""

import torch
from torch import Tensor

NAME = "bf16"
OP = "bf16"


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]; rounds to nearest even unless it is bf16 already, which stays where it lies."""
    return {"weight": weight.to(torch.bfloat16).contiguous()}


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    return stored["weight"].float()


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return 2 * n * k
