"""Products with weights of 4, 6 or 8 bits, widened by bit tricks in registers and scaled in fp32; and single rows of such weights.

Owns the kernels and which tile serves how many rows. How weights lie is packing.py, what becomes of a code bits.py.

Arithmetic of one row x, rounded to bf16: per group of inputs that share a scale, `dot` is the sum of x * code on the tensor cores,
from zero, 16 inputs after 16 inputs; `acc = fma(dot, scale, acc)` by ascending group. Zeros are taken off the codes before, which
is exact; least values are `acc = fma(sum of x, -least, acc)` besides, that sum a product with ones. No weight is rounded: codes are
exact in bf16, scales meet the sums in fp32. K is cut into segments that follow from the layer alone and are added in ascending
order, by one program or by several, as in gemm.py, and every tile multiplies by the same instruction, the weight on the left. So
these layers give a row the same bits in every company, and serve deterministic settings too.

A row may come in e4m3 with a scale, for weights of 4 bits: then both are e4m3, 32 inputs are multiplied at a time, and each segment's
sum is multiplied by the scale, `acc * (scale of the row * CODE)`.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton import gemm
from slipstream.ops.triton.bits import CODE, narrowed, widened
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.gemm import Tile
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packing import NUMBERS, OUTPUTS, STEP, Form, Packed
from slipstream.ops.types import CODES_ROOM, SCALE_BYTES

BY_ROWS = (  # (up to how many rows, tile); no bits depend on it
    (16, Tile(16, OUTPUTS, STEP, 4, 4)),
    (32, Tile(32, OUTPUTS, STEP, 4, 4)),
    (64, Tile(64, OUTPUTS, STEP, 8, 3)),
    (1 << 31, Tile(128, OUTPUTS, STEP, 8, 3)),
)
FINE = Tile(64, OUTPUTS, STEP, 8, 3)  # in place of a larger one for 4 bits in groups of 32 or with rows in e4m3: sums would not fit
MERGE_BLOCK, GATHER_BLOCK = 1024, 1024  # numbers of a row per program


@triton.jit
def code_place(output, number):
    """Where number `number` of an output lies within a block, see packing.py."""
    return output // 16 * 256 + output % 8 * 32 + number // 4 * 8 + output // 8 % 2 * 4 + number % 4


@triton.jit
def fact_place(output):
    """Where a scale or least value of an output lies within its group."""
    return output // 32 * 32 + output % 8 * 4 + output // 8 % 4


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


@triton.jit
def _step_of_codes(
    total, codes, x, scale, least, at, here,
    inputs: tl.constexpr, n: tl.constexpr, group: tl.constexpr, kind: tl.constexpr, middle: tl.constexpr, block: tl.constexpr,
    length: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    """The same of 4-bit codes and rows of e4m3, each code by 1 / CODE of it; a group's inputs are summed before they are scaled."""
    pair: tl.constexpr = 2 * inner  # inputs of one product: numbers 2 i and 2 i + 1 of a block
    dot = total
    zero = tl.full([1, 1], middle, tl.uint8)
    depth = tl.arange(0, pair)[:, None]
    for number in tl.static_range(length // pair):
        place = at + number * pair
        if number % 2 == 0:
            taken = tl.load(codes + place // block * (n * inner))
        if kind == "zero" and number * pair % group == 0:
            zero = tl.load(least + place // group * n)[:, None]
        both = tl.join(narrowed(taken, zero, number % 2 * 2), narrowed(taken, zero, number % 2 * 2 + 1))  # [outputs, inner, 2]
        weight = both.permute(0, 2, 1).reshape(total.shape[0], pair).to(tl.float8e4nv, bitcast=True)
        part = tl.load(x + place, mask=here if inputs % length == 0 else here & (place + depth < inputs), other=0.0)
        dot = tl.dot(weight, part) if number * pair % group == 0 else tl.dot(weight, part, dot)
        if (number + 1) * pair % group == 0:
            times = factor(scale, scale, place, n, group, 0)
            total = tl.fma(dot, tl.broadcast_to(times[:, None], total.shape), total)
    return total


@triton.jit(do_not_specialize=["m", "stride"], do_not_specialize_on_alignment=["x_scale", "bias", "out"])
def _product(
    x, codes, scale, least, wide, wide_least, x_scale, bias, out, m, stride,
    narrow: tl.constexpr, inputs: tl.constexpr, width: tl.constexpr, outputs: tl.constexpr, n: tl.constexpr, k: tl.constexpr,
    bits: tl.constexpr, group: tl.constexpr, kind: tl.constexpr, middle: tl.constexpr, wide_group: tl.constexpr, block: tl.constexpr,
    chain: tl.constexpr, length: tl.constexpr, segments: tl.constexpr, segment: tl.constexpr, parts: tl.constexpr,
    has_bias: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    await_turn()
    column = tl.program_id(0) * block_n + tl.arange(0, block_n)
    row = tl.program_id(1) * block_m + tl.arange(0, block_m)
    depth = tl.arange(0, inner)
    here = row < m
    left = codes + code_place(column[:, None], depth[None, :])  # [outputs, inputs]
    upper = left + k // block * (n * inner)
    facts = fact_place(column)
    right = x + row.to(tl.int64)[None, :] * width + (tl.arange(0, 2 * inner) if narrow else depth)[:, None]  # [inputs, rows]
    total = tl.zeros((block_n, block_m), tl.float32)
    first = tl.program_id(2) if parts else 0
    for number in range(first, first + 1 if parts else segments):
        begin = number * segment
        part = tl.zeros((block_n, block_m), tl.float32)
        for at in range(begin, tl.minimum(begin + segment, k), length):
            if narrow:
                part = _step_of_codes(
                    part, left, right, scale + facts, least + facts, at, here[None, :],
                    inputs, n, group, kind, middle, block, length, inner,
                )  # fmt: skip
            else:
                part = _step(
                    part, left, upper, right, scale + facts, least + facts, wide + facts, wide_least + facts, at, here[None, :],
                    n, bits, group, kind, middle, wide_group, block, chain, length, inner,
                )  # fmt: skip
        if narrow:
            part *= (tl.load(x_scale + row.to(tl.int64) * (width // 4), mask=here, other=0.0) * CODE)[None, :]
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


def tile_of(form: Form, rows: int, narrow: bool = False) -> Tile:
    """The tile that serves so many rows; `narrow`: in e4m3."""
    tile = next(tile for most, tile in BY_ROWS if rows <= most)
    return FINE if tile.m > FINE.m and form.bits == 4 and (narrow or form.group == 32) else tile


@cache
def variant(form: Form, parts: bool, has_bias: bool, tile: Tile, narrow: bool = False) -> Variant:
    """The form of the product for a layer; `parts`: segments as programs of their own, which leave their sums in scratch; `narrow`: of
    rows in e4m3."""
    segments, segment = gemm.segments_of(form.n, form.k, tile)
    chain = form.group or STEP
    constants = {
        "narrow": narrow, "inputs": form.inputs, "width": form.inputs + CODES_ROOM if narrow else form.k,
        "outputs": form.outputs, "n": form.n, "k": form.k, **meaning(form), "chain": chain,
        "length": STEP if narrow else max(chain, form.block), "segments": segments, "segment": segment, "parts": parts,
        "has_bias": has_bias and not parts,
        "block_m": tile.m, "block_n": tile.n, "inner": NUMBERS,
    }  # fmt: skip
    kinds = ("*fp8e4nv" if narrow else "*bf16", *types(form), "*fp32", "*fp32", "*fp32", "i32", "i32")
    return Variant(_product, constants, kinds, tile.warps, tile.stages)


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


def variants(form: Form, rows: int, has_bias: bool, tile: Tile | None = None, narrow: bool = False) -> tuple[Variant, ...]:
    """What `product` launches: one kernel, or parts and their sum; `narrow`: of rows in e4m3."""
    tile = tile or tile_of(form, rows, narrow)
    if not gemm.scratch_size(rows, form.n, form.k, tile):
        return (variant(form, False, has_bias, tile, narrow),)
    segments, _ = gemm.segments_of(form.n, form.k, tile)
    return variant(form, True, has_bias, tile, narrow), merge_variant(form, segments, has_bias)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, tile: Tile | None = None) -> None:
    """out = x @ weight.T + bias.

    Args:
        x: bf16 [m, form.k]: inputs past the layer's own are 0; or e4m3 [m, form.inputs + CODES_ROOM], codes with their scale behind them.
        bias: fp32 [outputs], or None.
        out: fp32 [m, outputs], whose rows may lie apart.
        tile: None takes the one for so many rows. Another with as many outputs and the same step gives the same bits.

    Raises:
        InputError: a tensor does not fit.
    """
    form, m = packed.form, x.shape[0]
    narrow = x.dtype is torch.float8_e4m3fn
    fits("product", "x", x, (m, form.inputs + CODES_ROOM if narrow else form.k), x.dtype if narrow else torch.bfloat16)
    if narrow and (form.bits != 4 or form.least == "sum"):
        raise InputError(f"product: rows in e4m3 take weights of 4 bits and zeros at most, not {form}; take rows in bf16")
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    x_scale = x[:, form.inputs : form.inputs + SCALE_BYTES].view(torch.float32) if narrow else out
    operands = (x, packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least, x_scale)
    added, has_bias, stride = out if bias is None else bias, bias is not None, out.stride(0)
    tile = tile or tile_of(form, m, narrow)
    tiles = (form.n // tile.n, triton.cdiv(m, tile.m))
    kernel, *merge = variants(form, m, has_bias, tile, narrow)
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
