"""Q8_0 of GGUF: blocks of 32 signed bytes with an fp16 scale, w = d * q. Weights can be rounded to it too.

Layout: ggml-org/ggml, src/ggml-common.h. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.quant.blocks import decode, half
from slipstream.quant.rounding import rounded

NAME = "q8_0"
GGUF = ("Q8_0",)
OP = "q8_0"
VALUES, WIDTH = 32, 34  # weights and bytes of a block
_CHUNK = 1 << 22  # weights quantised at a time


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" int8 [n, k], "scale" fp16 [n, k / 32] = largest magnitude of the group / 127.

    Raises:
        InputError: k is no multiple of 32.
    """
    if weight.shape[1] % VALUES:
        raise InputError(f"quant='q8_0': a layer has {weight.shape[1]} inputs, no multiple of {VALUES}; take quant='int8'")
    return rounded(NAME, weight, VALUES) or _quantise(weight)


def _quantise(weight: Tensor) -> dict[str, Tensor]:
    n, k = weight.shape
    whole = torch.empty(n, k, dtype=torch.int8, device=weight.device)
    scale = torch.empty(n, k // VALUES, dtype=torch.float16, device=weight.device)
    rows = max(1, _CHUNK // k)
    for at in range(0, n, rows):
        groups = weight[at : at + rows].float().unflatten(1, (-1, VALUES))  # [rows, groups, 32]
        step = (groups.abs().amax(-1) / 127).half()
        scale[at : at + rows] = step
        divisor = torch.where(step > 0, step.float(), 1.0)[..., None]
        whole[at : at + rows] = (groups / divisor).round_().clamp_(-127, 127).flatten(1).to(torch.int8)
    return {"weight": whole, "scale": scale}


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k + n * k // VALUES * 2


def lay_out(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """GGUF's blocks as the tensors of kernel OP."""
    blocks = stored["blocks"].unflatten(1, (-1, WIDTH))  # [n, k / 32, 34]
    scale = blocks[..., :2].contiguous().view(torch.float16).squeeze(-1)
    return {"weight": blocks[..., 2:].contiguous().view(torch.int8).flatten(1), "scale": scale}


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k], of GGUF's blocks or of the tensors of kernel OP."""
    if "scale" in stored:
        return (stored["weight"].float().unflatten(1, (-1, VALUES)) * stored["scale"].float()[..., None]).flatten(1)
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    return half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()
