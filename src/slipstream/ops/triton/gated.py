"""SwiGLU's gate: silu(gate) * up. Owns its kernel; every number by itself."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.launch import Variant, fits

BLOCK = 1024  # numbers of a row per program


@triton.jit
def _gated(gate_up, out, width: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.load(gate_up + row * (2 * width) + column, mask=inside, other=0.0)
    up = tl.load(gate_up + row * (2 * width) + width + column, mask=inside, other=0.0)
    tl.store(out + row * width + column, tl.div_rn(gate, 1.0 + tl.exp(-gate)) * up, mask=inside)


@cache
def variant(width: int) -> Variant:
    """The form for `width` outputs."""
    return Variant(_gated, {"width": width, "block": BLOCK}, ("*fp32", "*fp32"))


def gated(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = silu(gate) * up of gate_up [rows, 2 * f], gate first (Shazeer 2020)."""
    rows, width = out.shape
    fits("gated", "gate_up", gate_up, (rows, 2 * width))
    fits("gated", "out", out, (rows, width))
    variant(width).launch((rows, triton.cdiv(width, BLOCK)), gate_up, out)
