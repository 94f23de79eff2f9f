"""Products of many rows: a whole-number layer is unpacked to bf16, once per call, and cuBLAS multiplies.

Owns the kernel that unpacks, and the scratch. From some hundred rows on a product is bound by arithmetic, in which cuBLAS is at its
best; unpacking costs one pass over the layer. Each weight is rounded to bf16 once, `bf16(fp32 of (code - zero) * scale)`, and the
order of sums is cuBLAS's: this is for fast settings only (docs/numerics.md, section 5). Must not know who asks.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.bits import widened
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.cublas import cublas
from slipstream.ops.triton.launch import Variant, row_facts
from slipstream.ops.triton.packed import code_place, fact_place, factor, meaning, types
from slipstream.ops.triton.packing import NUMBERS, OUTPUTS, Form, Packed

SCRATCH = 64 << 20  # weights unpacked at a time: 128 MB hold most layers whole


@triton.jit(do_not_specialize=["first"])
def _unpack(
    codes, scale, least, wide, wide_least, out, first,
    n: tl.constexpr, k: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr, middle: tl.constexpr,
    wide_group: tl.constexpr, block: tl.constexpr, inner: tl.constexpr, outputs: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0) * outputs + tl.arange(0, outputs)
    column = first + row  # of the layer; `row` is of the scratch
    depth, facts = tl.arange(0, inner), fact_place(column)
    at = tl.program_id(1) * block
    codes += code_place(column[:, None], depth[None, :])
    taken = tl.load(codes + at // block * (n * inner))
    above = taken
    if bits == 6:
        above = tl.load(codes + (k // block + at // (2 * block)) * (n * inner))
        above = above >> (at // block % 2 * 8).to(tl.int16)
    parts = ()
    for number in tl.static_range(block // inner):
        place = at + number * inner
        offset = tl.full([1, 1], 0x4180 | middle << 3, tl.int16).to(tl.bfloat16, bitcast=True)  # 16 + middle
        if kind == "zero":
            zero = tl.load(least + place // group * n + facts).to(tl.int16)
            offset = ((zero << 3) | 0x4180).to(tl.bfloat16, bitcast=True)[:, None]
        value = widened(taken, above, offset, number, bits).to(tl.float32)
        value *= factor(scale + facts, wide + facts, place, n, group, wide_group)[:, None]
        if kind == "sum":
            value -= factor(least + facts, wide_least + facts, place, n, group, wide_group)[:, None]
        parts += (value.to(tl.bfloat16),)
    if bits < 8:  # [outputs, inner, 2, 2] -> [outputs, block]: whole lines of memory
        whole = tl.join(tl.join(parts[0], parts[1]), tl.join(parts[2], parts[3])).permute(0, 3, 2, 1).reshape(outputs, block)
    else:
        whole = tl.join(parts[0], parts[1]).permute(0, 2, 1).reshape(outputs, block)
    tl.store(out + row.to(tl.int64)[:, None] * k + (at + tl.arange(0, block))[None, :], whole)


@cache
def variant(form: Form) -> Variant:
    """The form that unpacks a layer."""
    constants = {"n": form.n, "k": form.k, **meaning(form), "inner": NUMBERS, "outputs": OUTPUTS}
    return Variant(_unpack, constants, (*types(form), "*bf16", "i32"))


def unpack(packed: Packed, first: int, out: Tensor) -> None:
    """Outputs first .. first + len(out) - 1 of a layer to out bf16 [whole OUTPUTS, form.k]; `first` a multiple of OUTPUTS."""
    parts = (packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least)
    variant(packed.form).launch((len(out) // OUTPUTS, packed.form.k // packed.form.block), *parts, out, first)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, most: int = SCRATCH) -> None:
    """out = x @ weight.T + bias; arguments as in packed.product. `most`: weights unpacked at a time."""
    form = packed.form
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    rows = max(OUTPUTS, min(form.n, most // form.k // OUTPUTS * OUTPUTS))
    scratch = torch.empty(rows, form.k, dtype=torch.bfloat16, device=x.device)
    for first in range(0, form.outputs, rows):
        weight, part = scratch[: min(rows, form.n - first)], out[:, first : first + rows]
        unpack(packed, first, weight)
        cublas(x, weight[: part.shape[1]], part)
    if bias is not None:
        out.add_(bias)
