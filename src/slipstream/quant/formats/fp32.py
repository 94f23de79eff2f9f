"""fp32: every weight as a 32-bit float. Owns the stored form; must not know kernels or models."""

from torch import Tensor

NAME = "fp32"
OP = "fp32"


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]; exact for fp32, bf16 and fp16. fp32 stays where it lies."""
    return {"weight": weight.float().contiguous()}


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    return stored["weight"]


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return 4 * n * k
