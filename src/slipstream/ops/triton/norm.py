"""RMSNorm with the residual addition before it. Owns its kernel: one program per row; a row's sum has one tree per width."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.launch import Variant, fits, power_of_two


@triton.jit
def _norm(x, residual, weight, out, eps, hidden: tl.constexpr, block: tl.constexpr, has_residual: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < hidden
    place = row * hidden + column
    value = tl.load(x + place, mask=inside, other=0.0)
    if has_residual:
        value += tl.load(residual + place, mask=inside, other=0.0)
        tl.store(x + place, value, mask=inside)
    mean = tl.div_rn(tl.sum(value * value, axis=0), hidden * 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
    tl.store(out + place, (value * scale) * tl.load(weight + column, mask=inside, other=0.0), mask=inside)


@cache
def variant(hidden: int, has_residual: bool) -> Variant:
    """The form for rows of `hidden` numbers."""
    block = power_of_two(hidden)
    warps = min(16, max(1, block // 1024))
    constants = {"hidden": hidden, "block": block, "has_residual": has_residual}
    return Variant(_norm, constants, ("*fp32", "*fp32", "*fp32", "*fp32", "fp32"), warps)


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019); with a residual, x += residual in place first.

    Args:
        x, out, residual: [rows, hidden]; weight: [hidden].
    """
    rows, hidden = x.shape
    fits("norm", "x", x, (rows, hidden))
    fits("norm", "weight", weight, (hidden,))
    fits("norm", "out", out, (rows, hidden))
    added = x if residual is None else fits("norm", "residual", residual, (rows, hidden))
    variant(hidden, residual is not None).launch((rows,), x, added, weight, out, eps)
