"""Q4_K of GGUF: blocks of 256 four-bit numbers; each 32 have a 6-bit scale and minimum, w = d * s * q - dmin * m.

Layout: ggml-org/ggml, src/ggml-common.h. Read only. Owns the stored form; must not know kernels, files or models.
"""

from torch import Tensor

from slipstream.quant.blocks import decode, half, k_scales, nibbles

NAME = "q4_k"
GGUF = ("Q4_K",)
VALUES, WIDTH = 256, 144  # weights and bytes of a block


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    scale, least = k_scales(blocks[:, 4:16])  # [b, 8]
    q = nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32)  # each 32 bytes: a low and a high sub-block
    step, floor = half(blocks, 0) * scale, half(blocks, 2) * least
    return (step[:, :, None] * q.float() - floor[:, :, None]).flatten(1)
