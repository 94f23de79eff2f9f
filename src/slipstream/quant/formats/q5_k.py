"""Q5_K of GGUF: blocks of 256 five-bit numbers; scales as in Q4_K, bit j of the high bytes is the fifth of sub-block j.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

from torch import Tensor

from slipstream.quant.blocks import bits, decode, half, k_scales, nibbles

NAME = "q5_k"
GGUF = ("Q5_K",)
VALUES, WIDTH = 256, 176  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    scale, least = k_scales(blocks[:, 4:16])  # [b, 8]
    low = nibbles(blocks[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32)
    high = bits(blocks[:, 16:48]).view(-1, 32, 8).transpose(1, 2)
    step, floor = half(blocks, 0) * scale, half(blocks, 2) * least
    return (step[:, :, None] * (low | (high << 4)).float() - floor[:, :, None]).flatten(1)
