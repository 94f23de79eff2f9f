"""Products of tens of rows with weights of 4 or 8 bits: from memory into registers, multiplied by groups of four warps (wgmma).

Owns the kernel (Gluon) and its tiles. Weights come as in streamed.py, whose layouts serve here, too: a warp's part of wgmma's left
operand is what mma.sync takes. Activations go through shared memory, their inputs in the order that a thread's registers have.
The products of a stage of 128 inputs, or of a group where that is shorter, are waited for once.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from slipstream.ops.triton import streamed
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packed import meaning, types
from slipstream.ops.triton.packing import STEP, Form, Packed
from slipstream.ops.triton.streamed import both, fetch, in_pairs, raw_codes, raw_facts, settle, spread, widened

STAGE, HALF = gl.constexpr(STEP), gl.constexpr(STEP // 2)  # inputs


@dataclass(frozen=True, slots=True)
class Grouped:
    """A program's part of the result: rows of x, and warps with 32 outputs each; `fill` as in streamed.Stream."""

    rows: int
    warps: int = 4
    fill: int = streamed.FILL

    @property
    def stream(self) -> streamed.Stream:
        """What streamed.py calls such a part."""
        return streamed.Stream(self.rows, 1, self.warps, fill=self.fill)


@gluon.jit
def _x(x, at, end, m, k, rows: gl.constexpr, warps: gl.constexpr):
    """Two halves of a stage of x, [rows, 64] each, in the order of the registers of the weight; rows past m are the last again."""
    layout: gl.constexpr = gl.BlockedLayout([1, 16], [8, 4], [warps, 1], [1, 0])
    row = gl.program_id(1) * rows + gl.arange(0, rows, layout=gl.SliceLayout(1, layout))
    source = x + gl.expand_dims(gl.minimum(row, m - 1) * k, 1) + gl.expand_dims(gl.arange(0, HALF, layout=gl.SliceLayout(0, layout)), 0)
    at = gl.minimum(at, end - STAGE)
    found = ()
    for number in gl.static_range(2):
        part = gl.load(source + (at + number * HALF)).reshape([rows, 4, 4, 2, 2]).permute([0, 1, 3, 2, 4])
        found = found + (part.reshape([rows, HALF]),)
    return found


@gluon.jit
def _weight(taken, low, high, start: gl.constexpr, length: gl.constexpr, bits: gl.constexpr, block: gl.constexpr, left: gl.constexpr):
    """Inputs start .. start + length - 1 (16, 32 or 64 of them) of a stage of the weight, bf16 [outputs, length]."""
    outputs: gl.constexpr = taken[0].shape[1]
    if length == 16:
        return widened(taken[start // block], low, high, start % block // 16, bits).reshape([outputs, 16])
    else:
        half: gl.constexpr = length // 2
        a = _weight(taken, low, high, start, half, bits, block, left)
        b = _weight(taken, low, high, start + half, half, bits, block, left)
        return gl.join(a, b).permute([0, 2, 1]).reshape([outputs, length])


@gluon.jit(do_not_specialize=["m", "stride", "outputs", "units_n", "units_k", "per"], do_not_specialize_on_alignment=["bias", "out"])
def _product(
    x, codes, scale, least, wide_scale, wide_least, bias, out, scratch, arrived, m, stride, outputs, units_n, units_k, per,
    bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
    has_bias: gl.constexpr, rows: gl.constexpr, warps: gl.constexpr,
):  # fmt: skip
    in_codes: gl.constexpr = raw_codes(1, warps, 2)
    in_facts: gl.constexpr = raw_facts(1, warps, 1)
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, rows, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    size: gl.constexpr = warps * 32
    pairs: gl.constexpr = in_pairs(1, warps, 2)
    chain: gl.constexpr = group if group else STAGE
    piece: gl.constexpr = min(chain, HALF)
    blocks: gl.constexpr = STAGE // block
    groups: gl.constexpr = STAGE // chain
    n, k = units_n * 128, units_k * 128
    first = gl.program_id(0) * size
    begin = gl.program_id(2) * per
    last = gl.minimum(begin + per, units_k)
    end = last * STAGE
    shared = gl.allocate_shared_memory(gl.bfloat16, [4, rows, HALF], gl.NVMMASharedLayout(128, 16, 2))
    total = gl.zeros([size, rows], gl.float32, mma)
    taken = fetch(codes, scale, least, first, begin, end, n, warps, 1, group, kind, block, in_codes, in_facts)
    await_turn()
    part = _x(x, begin * STAGE, end, m, k, rows, warps)
    for now in range(begin, last):
        side = (now - begin) % 2 * 2
        shared.index(side).store(part[0])
        shared.index(side + 1).store(part[1])
        fence_async_shared()
        gl.thread_barrier()
        part = _x(x, (now + 1) * STAGE, end, m, k, rows, warps)
        coming = fetch(codes, scale, least, first, now + 1, end, n, warps, 1, group, kind, block, in_codes, in_facts)
        low, high = both(gl.full([1, size], middle, gl.int32, gl.SliceLayout(2, pairs)))
        dot = gl.zeros([size, rows], gl.float32, mma)
        for number in gl.static_range(STAGE // piece):
            if number * piece % chain == 0 and kind == "zero":
                low, high = both(spread(taken[blocks + groups + number * piece // chain], warps, 1, gl.SliceLayout(2, pairs)).to(gl.int32))
            weight = gl.convert_layout(_weight(taken, low, high, number * piece, piece, bits, block, left), left, assert_trivial=True)
            right = shared.index(side + number * piece // HALF).slice(number * piece % HALF, piece, 1).permute((1, 0))
            dot = warpgroup_mma(weight, right, dot, use_acc=number * piece % chain != 0, is_async=True)
            if (number + 1) * piece % chain == 0:
                dot = warpgroup_mma_wait(0, deps=[dot])
                times = _spread(taken[blocks + number * piece // chain], warps, gl.SliceLayout(1, mma))
                total = gl.fma(dot, gl.broadcast(gl.expand_dims(times, 1), total)[0], total)
        taken = coming
    settle(total, bias, out, scratch, arrived, m, stride, outputs, n, first, warps, 1, has_bias)


@gluon.jit
def _spread(facts, warps: gl.constexpr, target: gl.constexpr):
    """Scales fp32 [outputs]."""
    facts = facts.reshape([1, warps, 8, 2, 2]).permute([3, 1, 4, 2, 0]).reshape([warps * 32])
    return gl.convert_layout(facts, target, assert_trivial=True).to(gl.float32)


def serves(form: Form) -> bool:
    """Weights with one factor per group and no least values."""
    return form.least != "sum" and not form.wide and form.group != 16


def fitting(form: Form, grouped: Grouped) -> Grouped:
    """`grouped`, with fewer warps where the layer's outputs are no multiple of theirs."""
    return grouped if form.n % (grouped.warps * 32) == 0 else replace(grouped, warps=4)


@cache
def variant(form: Form, has_bias: bool, grouped: Grouped) -> Variant:
    """The form for all layers of such weights."""
    constants = {**meaning(form), "has_bias": has_bias, "rows": grouped.rows, "warps": grouped.warps}
    operands = ("*bf16", *types(form), "*fp32", "*fp32", "*fp32", "*i32")
    return Variant(_product, constants, operands + ("i32",) * 6, grouped.warps)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, grouped: Grouped) -> None:
    """out = x @ weight.T + bias; arguments as in streamed.product."""
    form = packed.form
    fits("product", "x", x, (x.shape[0], form.k), torch.bfloat16)
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    segments, per = streamed.segments_of(form, grouped.stream)
    streamed.launch(variant(form, bias is not None, grouped), x, packed, bias, out, grouped.rows, grouped.warps * 32, segments, per)
