"""MXFP4 of GGUF: blocks of 32 four-bit floats e2m1 that share a power of two, as gpt-oss files store their experts.

Layout: ggml-org/ggml, src/ggml-common.h: the exponent plus 127, then all low halves before all high halves. Read only. Every value is
exact in bf16. Owns the stored form; must not know kernels, files or models.
"""

import torch
from torch import Tensor

from slipstream.quant.blocks import decode, nibbles

NAME = "mxfp4_gguf"
GGUF = ("MXFP4",)
VALUES, WIDTH = 32, 17  # weights and bytes of a block
_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights, fp32 [n, k]. ggml has no NaN here: exponent 255 is 2 to the 128th, of which half is the unit."""
    return decode(stored["blocks"], WIDTH, VALUES, _part)


def _part(blocks: Tensor) -> Tensor:
    """u8 [b, WIDTH] -> fp32 [b, VALUES]."""
    half = torch.ldexp(torch.ones(len(blocks), 1), blocks[:, :1].int() - 128)  # what 0.5 stands for
    return 2 * _VALUES[nibbles(blocks[:, 1:]).int()] * half
