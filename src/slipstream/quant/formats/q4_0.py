"""Q4_0 of GGUF: blocks of 32 four-bit numbers with an fp16 scale, w = d * (q - 8). Byte j holds elements j (low half) and j + 16.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

from torch import Tensor

from slipstream.quant.blocks import decode, half, nibbles

NAME = "q4_0"
GGUF = ("Q4_0",)
VALUES, WIDTH = 32, 18  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    return half(blocks, 0) * (nibbles(blocks[:, 2:]).float() - 8)
