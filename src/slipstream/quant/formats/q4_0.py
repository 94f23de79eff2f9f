"""Q4_0 of GGUF: blocks of 32 four-bit numbers with an fp16 scale, w = d * (q - 8). Byte j holds elements j (low half) and j + 16.

Layout: ggml-org/ggml, src/ggml-common.h. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.quant.blocks import decode, half, nibbles

NAME = "q4_0"
GGUF = ("Q4_0",)
OP = "int4"
VALUES, WIDTH = 32, 18  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def lay_out(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the tensors of kernel OP."""
    blocks = stored["blocks"].unflatten(1, (-1, WIDTH))  # [n, k / 32, 18]
    scale = blocks[..., :2].contiguous().view(torch.float16).squeeze(-1)
    return {"weight": blocks[..., 2:].flatten(1), "scale": scale}


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    return half(blocks, 0) * (nibbles(blocks[:, 2:]).float() - 8)
