"""MXFP4 (OCP Microscaling 1.0): blocks of 32 four-bit floats e2m1 that share a power of two, as gpt-oss stores its experts.

Stored: blocks u8 [..., n, k / 32, 16], byte j holding elements 2 j (low half) and 2 j + 1; scales u8 [..., n, k / 32], exponent
plus 127. Every value is exact in bf16. Read only. A stack `x` of experts lies in `x_blocks` and `x_scales` as [experts, outputs,
inputs], while the plain floats of the same model are [experts, inputs, outputs], which is how it is shown here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.scheme import Scheme, Shape

NAME = "mxfp4"
METHODS = ("mxfp4",)
_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    if config.get("quant_method") != "mxfp4":
        return None
    return Scheme(NAME, "blocks", ("U8",), _shape, _matrices, needed=("scales",), joint="_", weight="")


def _shape(shapes: Mapping[str, Shape]) -> Shape:
    blocks, scales = shapes["blocks"], shapes.get("scales")
    if len(blocks) != 4 or blocks[3] != 16 or (scales is not None and scales != blocks[:3]):
        raise CheckpointError(
            f"mxfp4: blocks {list(blocks)} and scales {list(scales or ())} must be [experts, n, k / 32, 16] and [experts, n, k / 32]; "
            "fetch the checkpoint again"
        )
    return blocks[0], blocks[2] * 32, blocks[1]


def _matrices(stored: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """[..., k, n]: a view of the unpacked weights."""
    return unpack(stored).transpose(-1, -2)


def unpack(stored: Mapping[str, Tensor]) -> Tensor:
    """The weights, fp32 [..., n, k]. Scale 255 means NaN, as the format says."""
    packed = stored["blocks"]  # [..., n, k / 32, 16]
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)  # [..., n, k / 32, 32]
    exponents = stored["scales"].int() - 127
    scale = torch.ldexp(torch.ones(exponents.shape), exponents)
    scale = torch.where(exponents == 128, torch.nan, scale)
    return (_VALUES[codes.int()] * scale[..., None]).flatten(-2)
