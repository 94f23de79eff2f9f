"""Q8_0 of GGUF: blocks of 32 signed bytes with an fp16 scale, w = d * q.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.quant.blocks import decode, half

NAME = "q8_0"
GGUF = ("Q8_0",)
VALUES, WIDTH = 32, 34  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    return half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8).float()
