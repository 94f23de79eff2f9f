"""Q4_K of GGUF: blocks of 256 four-bit numbers; each 32 have a 6-bit scale and minimum, w = d * s * q - dmin * m.

Layout: ggml-org/ggml, src/ggml-common.h. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.quant.blocks import decode, half, k_scales, nibbles

NAME = "q4_k"
GGUF = ("Q4_K",)
OP = "q4_k"
VALUES, WIDTH = 256, 144  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def lay_out(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as the tensors of kernel OP."""
    n = stored["blocks"].shape[0]
    blocks = stored["blocks"].reshape(-1, WIDTH)
    scale, least = (part.to(torch.uint8).view(n, -1) for part in k_scales(blocks[:, 4:16]))
    halves = nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 2, 16)  # [blocks of 32, its two halves, 16]
    group = blocks[:, :4].contiguous().view(torch.float16).view(n, -1, 2)
    return {
        "weight": (halves[:, 0] | halves[:, 1] << 4).view(n, -1),
        "scale": scale,
        "least": least,
        "group": group[..., 0].contiguous(),
        "group_least": group[..., 1].contiguous(),
    }


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    scale, least = k_scales(blocks[:, 4:16])  # [b, 8]
    q = nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32)  # each 32 bytes: a low and a high sub-block
    step, floor = half(blocks, 0) * scale, half(blocks, 2) * least
    return (step[:, :, None] * q.float() - floor[:, :, None]).flatten(1)
