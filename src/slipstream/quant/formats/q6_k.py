"""Q6_K of GGUF: blocks of 256 six-bit numbers; each 16 have a signed 8-bit scale, w = d * s * (q - 32)..

Layout: ggml-org/ggml, src/ggml-common.h. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.quant.blocks import decode, half, nibbles

NAME = "q6_k"
GGUF = ("Q6_K",)
OP = "q6_k"
VALUES, WIDTH = 256, 210  # weights and bytes of a block
_STRETCH = 1 << 14  # blocks laid out at a time


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def lay_out(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the tensors of kernel OP, a byte for each."""
    n = stored["blocks"].shape[0]
    blocks = stored["blocks"].reshape(-1, WIDTH)
    weight = torch.cat([_whole(part) for part in blocks.split(_STRETCH)]).view(n, -1)
    scale = blocks[:, 192:208].contiguous().view(torch.int8).view(n, -1)
    return {"weight": weight, "scale": scale, "group": blocks[:, 208:].contiguous().view(torch.float16).view(n, -1)}


def _whole(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> the numbers -32..31, int8 [b, VALUES]."""
    low = nibbles(blocks[:, :128].reshape(-1, 2, 64)).view(-1, 2, 4, 32)  # halves of 128: low nibbles of 64 bytes, then high ones
    packed = blocks[:, 128:192].reshape(-1, 2, 1, 32)  # bits 2i, 2i+1 belong to the i-th 32 of the half
    high = (packed >> torch.arange(0, 8, 2, dtype=torch.uint8).view(4, 1)) & 3
    return (low | (high << 4)).view(-1, VALUES).to(torch.int8) - 32


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    scale = half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()  # [b, 16]
    return (scale[:, :, None] * _whole(blocks).view(-1, 16, 16).float()).flatten(1)
