"""Q4_1 of GGUF: blocks of 32 four-bit numbers with an fp16 scale and minimum, w = d * q + m. Bytes as in Q4_0.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

from torch import Tensor

from slipstream.quant.blocks import decode, half, nibbles

NAME = "q4_1"
GGUF = ("Q4_1",)
VALUES, WIDTH = 32, 20  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    return half(blocks, 0) * nibbles(blocks[:, 4:]).float() + half(blocks, 2)
