"""Norms, with the residual addition before those of whole rows: RMSNorm, LayerNorm, RMSNorm of parts of a row.

Owns their kernels: one program per row, or per row and block of parts; a sum has one tree per width.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import e4m3
from slipstream.ops.triton.launch import Variant, fits, power_of_two, type_name
from slipstream.ops.types import CODES_ROOM, SCALE_BYTES

CODES = "*fp8e4nv"
PART_BLOCK = 1024  # numbers of a row per program where its parts are normed


@triton.jit
def _norm(
    x, residual, weight, bias, out, scales, eps,
    hidden: tl.constexpr, width: tl.constexpr, block: tl.constexpr, has_residual: tl.constexpr, centred: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    inside = column < hidden
    place = row * hidden + column
    factor = tl.load(weight + column, mask=inside, other=0.0)  # before anything is stored, so that it is not waited for
    await_turn()
    value = tl.load(x + place, mask=inside, other=0.0)
    if has_residual:
        value += tl.load(residual + place, mask=inside, other=0.0)
        tl.store(x + place, value, mask=inside)
    if centred:
        value = tl.where(inside, value - tl.div_rn(tl.sum(value, axis=0), hidden * 1.0), 0.0)
    mean = tl.div_rn(tl.sum(value * value, axis=0), hidden * 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
    result = (value * scale) * factor
    if centred:
        result = tl.fma(value * scale, factor, tl.load(bias + column, mask=inside, other=0.0))
    if width > hidden:  # codes, and behind them their scale
        result, step = e4m3(result)
        tl.store(scales + row * (width // 4), step)
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["width", "start", "parts"])
def _norm_parts(x, weight, eps, width, start, parts, size: tl.constexpr, block: tl.constexpr, count: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1) * count + tl.arange(0, count)
    column = tl.arange(0, block)
    inside = (part < parts)[:, None] & (column < size)[None, :]
    own = part[:, None] * size + column[None, :]
    place = row * width + start + own
    value = tl.load(x + place, mask=inside, other=0.0)
    mean = tl.div_rn(tl.sum(value * value, axis=1), size * 1.0)
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
    tl.store(x + place, (value * scale[:, None]) * tl.load(weight + own, mask=inside, other=0.0), mask=inside)


@cache
def variant(hidden: int, has_residual: bool, centred: bool = False, out: str = "*fp32") -> Variant:
    """The form for rows of `hidden` numbers, results of type `out`, "*fp32", "*bf16" or "*fp8e4nv"; `centred`: LayerNorm."""
    block = power_of_two(hidden)
    warps = min(16, max(1, block // 256))  # 8 numbers per thread: a row alone is a matter of latency
    width = hidden + (CODES_ROOM if out == CODES else 0)
    constants = {"hidden": hidden, "width": width, "block": block, "has_residual": has_residual, "centred": centred}
    return Variant(_norm, constants, ("*fp32", "*fp32", "*fp32", "*fp32", out, "*fp32", "fp32"), warps)


@cache
def parts_variant(size: int) -> Variant:
    """The form for parts of `size` numbers."""
    block = power_of_two(size)
    count = max(1, PART_BLOCK // block)
    types = ("*fp32", "*fp32", "fp32", "i32", "i32", "i32")
    return Variant(_norm_parts, {"size": size, "block": block, "count": count}, types, min(16, max(4, block // 1024)))


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019); with a residual, x += residual in place first.

    Args:
        x, residual: [rows, hidden]; weight: [hidden].
        out: [rows, hidden], fp32 or bf16, or e4m3 [rows, hidden + CODES_ROOM]: rounded to bf16, then to codes by one scale per row.
    """
    _launch("norm", x, weight, None, eps, out, residual)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias (Ba et al. 2016). Arguments as `norm`; bias [hidden]."""
    _launch("layer_norm", x, weight, bias, eps, out, residual)


def norm_slices(x: Tensor, weight: Tensor, start: int, size: int, eps: float) -> None:
    """RMSNorm of columns start .. start + len(weight) of x [rows, any], every `size` of them by themselves, in place."""
    (rows, width), columns = x.shape, weight.shape[0]
    if size < 1 or columns % size or not 0 <= start <= width - columns:
        raise InputError(f"norm_slices: {columns} columns from {start} on in slices of {size} do not fit x of {width} columns")
    fits("norm_slices", "x", x, (rows, width))
    fits("norm_slices", "weight", weight, (columns,))
    form, parts = parts_variant(size), columns // size
    form.launch((rows, triton.cdiv(parts, form.constants["count"])), x, weight, eps, width, start, parts)


def _launch(op: str, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, out: Tensor, residual: Tensor | None) -> None:
    rows, hidden = x.shape
    fits(op, "x", x, (rows, hidden))
    fits(op, "weight", weight, (hidden,))
    if out.dtype is torch.float8_e4m3fn:
        kind, scales = CODES, fits(op, "out", out, (rows, hidden + CODES_ROOM), out.dtype)[:, hidden : hidden + SCALE_BYTES].view(x.dtype)
    else:
        kind, scales = type_name(op, "out", fits(op, "out", out, (rows, hidden), out.dtype)), weight
    added = x if residual is None else fits(op, "residual", residual, (rows, hidden))
    moved = weight if bias is None else fits(op, "bias", bias, (hidden,))
    variant(hidden, residual is not None, bias is not None, kind).launch((rows,), x, added, weight, moved, out, scales, eps)
