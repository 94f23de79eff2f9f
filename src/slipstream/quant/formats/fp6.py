"""fp6: floats of six bits, e3m2, with one fp32 scale per output: FP6-LLM (Xia et al. 2024, arXiv 2401.14112; scales per output there too).

A code is sign, three bits of exponent (less 3), two of fraction; 0 of the exponent means 0, 1/16, 2/16, 3/16; no infinity, 28 the
greatest. Six bits fit no byte, so codes are stored as two planes (quant/packing.py): sign and upper bit of the exponent, and the
other four bits. The example of a format whose width is no power of two; must not know kernels, which lie the planes out anew.
"""

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.quant.packing import numbers, plane
from slipstream.quant.scales import round_rows

NAME = "fp6"
OP = "fp6"
GREATEST = 28.0  # e3m2
BLOCK = 64  # inputs whose parts of the upper plane lie together
_SIZES = [fraction / 16 if exponent == 0 else (4 + fraction) * 2.0 ** (exponent - 5) for exponent in range(8) for fraction in range(4)]
_VALUES = torch.tensor([*_SIZES, *(-size for size in _SIZES)])


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" u8 [n, k / 2], "upper" u8 [n, k / 4], rounded to nearest even; "scale" fp32 [n] =
    largest size of the row / 28.

    Raises:
        InputError: k is no multiple of 64.
    """
    if weight.shape[1] % BLOCK:
        raise InputError(f"quant={NAME!r}: a layer has {weight.shape[1]} inputs, no multiple of {BLOCK}; take quant='fp8' or 'int8'")
    codes, scale = round_rows(weight, torch.uint8, GREATEST, _codes)
    return {"weight": plane(codes & 15, 4), "upper": plane(codes >> 4, 2), "scale": scale}


def _codes(values: Tensor) -> Tensor:
    """Codes of fp32 numbers within -28 .. 28, in fp32."""
    size = values.abs()
    exponent = ((size.view(torch.int32) >> 23) - 127).clamp_(min=-2)  # below 2^-2 steps are those of 2^-2
    steps = (size * ((129 - exponent) << 23).view(torch.float32)).round_()  # of 2^(exponent - 2); 8 is the next exponent's 4
    return steps + 4 * (exponent + 2) + 32 * (values < 0)


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    codes = numbers(stored["weight"], 4) | numbers(stored["upper"], 2) << 4
    return _VALUES.to(codes.device)[codes.int()] * stored["scale"][:, None]


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k * 3 // 4 + 4 * n
