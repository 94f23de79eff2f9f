"""Q5_0 of GGUF: blocks of 32 five-bit numbers with an fp16 scale, w = d * (q - 16). Four bits as in Q4_0, the fifth in a word of 32.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

from torch import Tensor

from slipstream.quant.blocks import bits, decode, half, nibbles

NAME = "q5_0"
GGUF = ("Q5_0",)
VALUES, WIDTH = 32, 22  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    q = nibbles(blocks[:, 6:]) | (bits(blocks[:, 2:6]) << 4)
    return half(blocks, 0) * (q.float() - 16)
