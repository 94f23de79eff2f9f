"""Products with weights of 4, 6 or 8 bits, widened by bit tricks in registers and scaled in fp32; and single rows of such weights.

Owns the kernels and which tile serves how many rows. How weights lie is packing.py.

Arithmetic of one row x, rounded to bf16: per group of inputs that share a scale, `dot` is the sum of x * code on the tensor cores,
from zero, 16 inputs after 16 inputs; `acc = fma(dot, scale, acc)` by ascending group. Zeros are taken off the codes before, which
is exact; least values are `acc = fma(sum of x, -least, acc)` besides, that sum a product with ones. No weight is rounded: codes are
exact in bf16, scales meet the sums in fp32. K is cut into segments that follow from the layer alone and are added in ascending
order, by one program or by several, as in gemm.py, and every tile multiplies by the same instruction, the weight on the left. So
these layers give a row the same bits in every company, and serve deterministic settings too.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton import gemm
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.gemm import Tile
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packing import NUMBERS, OUTPUTS, STEP, Form, Packed

BY_ROWS = (  # (up to how many rows, tile); no bits depend on it
    (16, Tile(16, OUTPUTS, STEP, 4, 4)),
    (32, Tile(32, OUTPUTS, STEP, 4, 4)),
    (64, Tile(64, OUTPUTS, STEP, 8, 3)),
    (1 << 31, Tile(128, OUTPUTS, STEP, 8, 3)),
)
FINE = Tile(64, OUTPUTS, STEP, 8, 3)  # in place of a larger one for 4 bits in groups of 32, whose two sums at a time would not fit
MERGE_BLOCK, GATHER_BLOCK = 1024, 1024  # numbers of a row per program


# The same on pairs of codes in a register, as a compiler does not see it: a shift and a mask for two, and for bytes a difference.
_NIBBLES = "{ .reg .b32 t; %s.b32 t, $1, %d; lop3.b32 $0, t, 0x00780078, 0x41804180, 0xEA; }"
_BYTES = (
    "{ .reg .b32 t, u, v; shr.b32 t, $1, %d; lop3.b32 u, t, 0x007F007F, 0x43004300, 0xEA; "
    "lop3.b32 v, t, 0x00800080, 0x43004300, 0xEA; sub.bf16x2 $0, u, v; }"
)
# Floats e3m2: exponent and fraction go where bf16 has the lowest bits of its own, 2^124 corrects the exponent; subnormal numbers come
# out right by themselves. That is FP6-LLM's (Xia et al. 2024, arXiv 2401.14112), for bf16.
_FLOATS = (
    "{ .reg .b32 t, u; %s.b32 t, $1, %d; and.b32 t, t, 0x01E001E0; %s.b32 u, $2, %d; lop3.b32 t, u, 0x02000200, t, 0xEA; "
    "%s.b32 u, $2, %d; lop3.b32 t, u, 0x80008000, t, 0xEA; "
    ".reg .b32 v, w; mov.b32 v, 0x7D807D80; mov.b32 w, 0x80008000; fma.rn.bf16x2 $0, t, v, w; }"
)


def _moved(by: int) -> tuple[str, int]:
    """The shift by so many bits to the left, or less than none."""
    return ("shl", by) if by >= 0 else ("shr", -by)


FOUR_BITS = tl.constexpr(tuple(_NIBBLES % way for way in (("shl", 3), ("shr", 1), ("shr", 5), ("shr", 9))))
EIGHT_BITS = tl.constexpr(tuple(_BYTES % shift for shift in (0, 8)))
SIX_BITS = tl.constexpr(tuple(  # code i of the lower plane is number i % 4 of its own, of the upper one number i
    _FLOATS % (*_moved(5 - 4 * (i % 4)), *_moved(9 - 2 * i), *_moved(14 - 2 * i)) for i in range(8)
))  # fmt: skip
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def code_place(output, number):
    """Where number `number` of an output lies within a block, see packing.py."""
    return output // 16 * 256 + output % 8 * 32 + number // 4 * 8 + output // 8 % 2 * 4 + number % 4


@triton.jit
def fact_place(output):
    """Where a scale or least value of an output lies within its group."""
    return output // 32 * 32 + output % 8 * 4 + output // 8 % 4


@triton.jit
def moved(codes, by: tl.constexpr):
    """`codes`, shifted by so many bits to the left, or less than none."""
    return codes << by if by >= 0 else codes >> -by


@triton.jit
def widened(codes, upper, offset, number: tl.constexpr, bits: tl.constexpr):
    """Code `number` of every int16 as bf16. A nibble becomes the upper bits of the fraction of 16, `offset` has these 16 too; a byte,
    signed, is its low seven bits in the fraction of 128, less 128, less 128 more where it is negative. Of 6 bits the upper ones are
    in `upper`, which holds eight of them."""
    if not INTERPRETED:
        if bits == 6:
            wide = tl.inline_asm_elementwise(SIX_BITS[number], "=r,r,r", [codes, upper], tl.bfloat16, is_pure=True, pack=2)
        elif bits == 4:
            wide = tl.inline_asm_elementwise(FOUR_BITS[number], "=r,r", [codes], tl.bfloat16, is_pure=True, pack=2)
        else:
            wide = tl.inline_asm_elementwise(EIGHT_BITS[number], "=r,r", [codes], tl.bfloat16, is_pure=True, pack=2)
    elif bits == 6:
        size = (moved(codes, 5 - 4 * (number % 4)) & 0x1E0) | (moved(upper, 9 - 2 * number) & 0x200)
        signed = (size | (moved(upper, 14 - 2 * number) & -0x8000)).to(tl.bfloat16, bitcast=True)
        wide = (signed.to(tl.float32) * 2.0**124).to(tl.bfloat16)
    elif bits == 4:
        wide = ((moved(codes, 3 - 4 * number) & 0x78) | 0x4180).to(tl.bfloat16, bitcast=True)
    else:
        byte = moved(codes, -8 * number)
        wide = ((byte & 0x7F) | 0x4300).to(tl.bfloat16, bitcast=True) - ((byte & 0x80) | 0x4300).to(tl.bfloat16, bitcast=True)
    return wide - offset if bits == 4 else wide


@triton.jit
def factor(part, wide, at, n: tl.constexpr, group: tl.constexpr, wide_group: tl.constexpr):
    """Scales or least values of the group that input `at` is in, fp32."""
    found = tl.load(part + at // group * n if group else part).to(tl.float32)
    if wide_group:
        found *= tl.load(wide + at // wide_group * n).to(tl.float32)
    return found


@triton.jit
def _step(
    total, codes, upper, x, scale, least, wide, wide_least, at, here,
    n: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr, middle: tl.constexpr, wide_group: tl.constexpr,
    block: tl.constexpr, chain: tl.constexpr, length: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    """`total` [outputs, rows] and what the inputs at .. at + length - 1 add to it; `chain` of them are summed before they are scaled."""
    dot = total
    sums = total
    offset = tl.full([1, 1], 0x4180 | middle << 3, tl.int16).to(tl.bfloat16, bitcast=True)  # 16 + middle
    ones = tl.full([total.shape[0], inner], 0x3F80, tl.int16).to(tl.bfloat16, bitcast=True)
    for number in tl.static_range(length // inner):
        place = at + number * inner
        if number * inner % block == 0:
            taken = tl.load(codes + place // block * (n * inner))
        if number * inner % (2 * block) == 0:
            above = tl.load(upper + place // (2 * block) * (n * inner)) if bits == 6 else taken
        if number * inner % chain == 0 and kind == "zero":
            zero = tl.load(least + place // group * n).to(tl.int16)
            offset = ((zero << 3) | 0x4180).to(tl.bfloat16, bitcast=True)[:, None]
        weight = widened(taken, above, offset, number * inner % (2 * block if bits == 6 else block) // inner, bits)
        part = tl.load(x + place, mask=here, other=0.0)
        dot = tl.dot(weight, part) if number * inner % chain == 0 else tl.dot(weight, part, dot)
        if kind == "sum":
            sums = tl.dot(ones, part) if number * inner % chain == 0 else tl.dot(ones, part, sums)
        if (number + 1) * inner % chain == 0:
            times = factor(scale, wide, place, n, group, wide_group)
            total = tl.fma(dot, tl.broadcast_to(times[:, None], total.shape), total)
            if kind == "sum":
                off = -factor(least, wide_least, place, n, group, wide_group)
                total = tl.fma(sums, tl.broadcast_to(off[:, None], total.shape), total)
    return total


@triton.jit(do_not_specialize=["m", "stride"], do_not_specialize_on_alignment=["bias", "out"])
def _product(
    x, codes, scale, least, wide, wide_least, bias, out, m, stride,
    outputs: tl.constexpr, n: tl.constexpr, k: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr,
    middle: tl.constexpr, wide_group: tl.constexpr, block: tl.constexpr, chain: tl.constexpr, length: tl.constexpr,
    segments: tl.constexpr, segment: tl.constexpr, parts: tl.constexpr, has_bias: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    await_turn()
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    row = tl.program_id(1) * block_m + tl.arange(0, block_m)
    depth = tl.arange(0, inner)
    here = row < m
    left = codes + code_place(column[:, None], depth[None, :])  # [outputs, inputs]
    upper = left + k // block * (n * inner)
    facts = fact_place(column)
    right = x + row.to(tl.int64)[None, :] * k + depth[:, None]  # [inputs, rows]
    total = tl.zeros((block_n, block_m), tl.float32)
    first = tl.program_id(2) if parts else 0
    for number in range(first, first + 1 if parts else segments):
        begin = number * segment
        part = tl.zeros((block_n, block_m), tl.float32)
        for at in range(begin, tl.minimum(begin + segment, k), length):
            part = _step(
                part, left, upper, right, scale + facts, least + facts, wide + facts, wide_least + facts, at, here[None, :],
                n, bits, group, kind, middle, wide_group, block, chain, length, inner,
            )  # fmt: skip
        total = part if number == first else total + part
    if parts:
        place = (first.to(tl.int64) * m + row)[None, :] * n + column[:, None]
        tl.store(out + place, total, mask=here[None, :])
    else:
        there = column < outputs
        if has_bias:
            total += tl.load(bias + column, mask=there, other=0.0)[:, None]
        place = row.to(tl.int64)[None, :] * stride + column[:, None]
        tl.store(out + place, total, mask=here[None, :] & there[:, None])


@triton.jit(do_not_specialize=["m", "stride"], do_not_specialize_on_alignment=["bias", "out"])
def _merge(
    scratch, bias, out, m, stride,
    outputs: tl.constexpr, n: tl.constexpr, segments: tl.constexpr, has_bias: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < outputs
    total = tl.load(scratch + row * n + column, mask=inside)
    for number in tl.static_range(1, segments):
        total += tl.load(scratch + (number * m.to(tl.int64) + row) * n + column, mask=inside)
    if has_bias:
        total += tl.load(bias + column, mask=inside)
    tl.store(out + row * stride + column, total, mask=inside)


@triton.jit(do_not_specialize_on_alignment=["ids"])
def _gather(
    ids, codes, scale, least, wide, wide_least, out,
    inputs: tl.constexpr, n: tl.constexpr, bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr, middle: tl.constexpr,
    wide_group: tl.constexpr, block: tl.constexpr, inner: tl.constexpr, length: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(ids + row).to(tl.int64)
    column = tl.program_id(1) * length + tl.arange(0, length)
    inside = column < inputs
    column = tl.where(inside, column, 0)
    place = (column // block).to(tl.int64) * (n * inner) + code_place(source, column % inner)
    number = tl.load(codes + place).to(tl.int32)
    source = fact_place(source)
    code = number >> (column % block // inner * bits)
    code = code & 0xF if bits == 4 else ((code & 0xFF) ^ 0x80) - 0x80
    if kind == "zero":
        code -= tl.load(least + column // group * n + source).to(tl.int32)
    value = (code - middle).to(tl.float32) * factor(scale + source, wide + source, column, n, group, wide_group)
    if kind == "sum":
        value -= factor(least + source, wide_least + source, column, n, group, wide_group)
    tl.store(out + row * inputs + column, value, mask=inside)


def tile_of(form: Form, rows: int) -> Tile:
    """The tile that serves so many rows."""
    tile = next(tile for most, tile in BY_ROWS if rows <= most)
    return FINE if tile.m > FINE.m and form.bits == 4 and form.group == 32 else tile


@cache
def variant(form: Form, parts: bool, has_bias: bool, tile: Tile) -> Variant:
    """The form of the product for a layer; `parts`: segments as programs of their own, which leave their sums in scratch."""
    segments, segment = gemm.segments_of(form.n, form.k, tile)
    chain = form.group or STEP
    constants = {
        "outputs": form.outputs, "n": form.n, "k": form.k, **meaning(form), "chain": chain, "length": max(chain, form.block),
        "segments": segments, "segment": segment, "parts": parts, "has_bias": has_bias and not parts,
        "block_m": tile.m, "block_n": tile.n, "inner": NUMBERS,
    }  # fmt: skip
    return Variant(_product, constants, ("*bf16", *types(form), "*fp32", "*fp32", "i32", "i32"), tile.warps, tile.stages)


@cache
def merge_variant(form: Form, segments: int, has_bias: bool) -> Variant:
    """The form that adds the segments of `variant`."""
    constants = {"outputs": form.outputs, "n": form.n, "segments": segments, "has_bias": has_bias, "block": MERGE_BLOCK}
    return Variant(_merge, constants, ("*fp32", "*fp32", "*fp32", "i32", "i32"))


@cache
def gather_variant(form: Form) -> Variant:
    """The form that unpacks single rows of the weight."""
    constants = {"inputs": form.inputs, "n": form.n, **meaning(form), "inner": NUMBERS, "length": GATHER_BLOCK}
    return Variant(_gather, constants, ("*i32", *types(form), "*fp32"))


def meaning(form: Form) -> dict[str, int | str]:
    """What codes mean, as constants of a kernel."""
    return {
        "bits": form.bits, "group": form.group, "kind": form.least, "middle": form.middle, "wide_group": form.wide, "block": form.block
    }  # fmt: skip


def types(form: Form) -> tuple[str, ...]:
    """Of codes, scale, least, wide and wide_least."""
    wide = "*fp16" if form.wide else form.scale
    return "*i16", form.scale, "*u8" if form.least else form.scale, wide, wide if form.least == "sum" else form.scale


def variants(form: Form, rows: int, has_bias: bool, tile: Tile | None = None) -> tuple[Variant, ...]:
    """What `product` launches: one kernel, or parts and their sum."""
    tile = tile or tile_of(form, rows)
    if not gemm.scratch_size(rows, form.n, form.k, tile):
        return (variant(form, False, has_bias, tile),)
    segments, _ = gemm.segments_of(form.n, form.k, tile)
    return variant(form, True, has_bias, tile), merge_variant(form, segments, has_bias)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, tile: Tile | None = None) -> None:
    """out = x @ weight.T + bias.

    Args:
        x: bf16 [m, form.k]: inputs past the layer's own are 0.
        bias: fp32 [outputs], or None.
        out: fp32 [m, outputs], whose rows may lie apart.
        tile: None takes the one for so many rows. Another with as many outputs and the same step gives the same bits.

    Raises:
        InputError: a tensor does not fit.
    """
    form, m = packed.form, x.shape[0]
    tile = tile or tile_of(form, m)
    fits("product", "x", x, (m, form.k), torch.bfloat16)
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    operands = (x, packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least)
    added, has_bias, stride = out if bias is None else bias, bias is not None, out.stride(0)
    tiles = (form.n // tile.n, triton.cdiv(m, tile.m))
    kernel, *merge = variants(form, m, has_bias, tile)
    if not merge:
        kernel.launch(tiles, *operands, added, out, m, stride)
        return
    segments, _ = gemm.segments_of(form.n, form.k, tile)
    scratch = torch.empty(segments, m, form.n, device=x.device)
    kernel.launch((*tiles, segments), *operands, added, scratch, m, form.n)
    merge[0].launch((m, triton.cdiv(form.outputs, MERGE_BLOCK)), scratch, added, out, m, stride)


def gather(ids: Tensor, packed: Packed, out: Tensor) -> None:
    """Rows `ids` int32 [rows] of the weight, unpacked, to out fp32 [rows, inputs]. An id past the weight is not noticed."""
    form, rows = packed.form, ids.shape[0]
    row_facts("gather", "ids", ids, rows)
    fits("gather", "out", out, (rows, form.inputs))
    parts = (packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least)
    gather_variant(form).launch((rows, triton.cdiv(form.inputs, GATHER_BLOCK)), ids, *parts, out)
