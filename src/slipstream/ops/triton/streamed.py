"""Products of few rows with weights of 4 or 8 bits: from memory straight into the registers of the tensor cores.

Owns the kernel (Gluon, whose layouts say which thread holds what) and its tiles. Codes lie as warps take them (packing.py): what a
thread reads in 16 bytes is its part of two tiles of 16 outputs x 16 inputs per bit plane, so no weight goes through shared memory,
and several stages of them are on their way while one is multiplied. Products are those of single warps (mma.sync), which nobody
waits for by hand. The arithmetic of a row is that of packed.py: per group `dot` from zero, `acc = fma(dot, scale, acc)`.

K is cut into segments, a program each; a segment's stages of 128 inputs go to its warps in turn, whose sums are added by one tree.
The last program to arrive adds the segments, in ascending order.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.ends import norm_factor, store
from slipstream.ops.triton.fused import AS_IT_IS, OPERANDS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packed import meaning, types
from slipstream.ops.triton.packing import STEP, Form, Packed

STAGE = gl.constexpr(STEP)  # inputs

# Two codes of a register as two bf16. A nibble is the lowest bits of the fraction of 128 or, shifted less often, the upper ones of the
# fraction of 16, which is taken off with the zero; a byte as in packed.py.
_NIBBLE = "{ .reg .b32 t, u; %s lop3.b32 t, t, %s, 0xEA; sub.bf16x2 u, t, $3; mov.b32 {$0, $1}, u; }"
_LOW, _HIGH = "0x000F000F, 0x43004300", "0x00780078, 0x41804180"
NIBBLES = gl.constexpr(
    (_NIBBLE % ("mov.b32 t, $2;", _LOW), *(_NIBBLE % (f"shr.b32 t, $2, {shift};", _HIGH) for shift in (1, 5, 9)))
)
BYTES = gl.constexpr(
    tuple(
        f"{{ .reg .b32 t, u, v; shr.b32 t, $2, {shift}; lop3.b32 u, t, 0x007F007F, 0x43004300, 0xEA; "
        "lop3.b32 v, t, 0x00800080, 0x43004300, 0xEA; sub.bf16x2 u, u, v; mov.b32 {$0, $1}, u; }"
        for shift in (0, 8)
    )
)


FILL = 132 * 16  # warps that keep the memory of an H100 or H200 busy


@dataclass(frozen=True, slots=True)
class Stream:
    """A program's part of the result and its warps.

    Attributes:
        rows: of x.
        deep, wide: warps that share the inputs of a segment, and the outputs.
        each: outputs of a warp, 32 or 64.
        ahead: stages of 128 inputs that are read before the first is multiplied.
        fill: a layer has as many segments as such a number of warps takes.
    """

    rows: int
    deep: int = 4
    wide: int = 1
    each: int = 32
    ahead: int = 1
    fill: int = FILL

    @property
    def outputs(self) -> int:
        return self.wide * self.each



@gluon.constexpr_function
def raw_codes(deep, wide, reps):
    """Layout of [deep, tiles of 16 outputs, 128 pairs of numbers]: four neighbours to a thread, 16 bytes."""
    reg, lane = [[0, 0, 1], [0, 0, 2]], [[0, 0, 1 << bit] for bit in range(2, 7)]
    reg += [[0, wide << bit, 0] for bit in range(reps.bit_length() - 1)]
    return gl.DistributedLinearLayout(reg, lane, _warps(deep, wide), [], [deep, wide * reps, 128])


@gluon.constexpr_function
def in_pairs(deep, wide, reps):
    """The same as [deep, outputs, 8 pairs of inputs], as mma.sync takes its left operand."""
    reg, lane = [[0, 0, 4], [0, 8, 0]], [[0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    reg += [[0, (16 * wide) << bit, 0] for bit in range(reps.bit_length() - 1)]
    warp = [[0, 16 * at[1], 0] if at[1] else at for at in _warps(deep, wide)]
    return gl.DistributedLinearLayout(reg, lane, warp, [], [deep, 16 * wide * reps, 8])


@gluon.constexpr_function
def raw_facts(deep, wide, units):
    """Layout of [deep, units of 32 outputs, 32]: the four outputs of a thread beside each other."""
    reg, lane = [[0, 0, 1], [0, 0, 2]], [[0, 0, 0], [0, 0, 0], [0, 0, 4], [0, 0, 8], [0, 0, 16]]
    reg += [[0, wide << bit, 0] for bit in range(units.bit_length() - 1)]
    return gl.DistributedLinearLayout(reg, lane, _warps(deep, wide), [], [deep, wide * units, 32])


@gluon.constexpr_function
def raw_x(deep, wide, rows):
    """Layout of [deep, rows, 16 inputs]: four neighbours to a thread, all warps of a `wide` alike."""
    reg = [[0, 0, 1], [0, 0, 2]] + [[0, 8 << bit, 0] for bit in range((rows // 8).bit_length() - 1)]
    lane = [[0, 0, 4], [0, 0, 8], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    warp = [[0, 0, 0]] * (wide.bit_length() - 1) + [[1 << bit, 0, 0] for bit in range(deep.bit_length() - 1)]
    return gl.DistributedLinearLayout(reg, lane, warp, [], [deep, rows, 16])


@gluon.constexpr_function
def _warps(deep, wide):
    return [[0, 1 << bit, 0] for bit in range(wide.bit_length() - 1)] + [[1 << bit, 0, 0] for bit in range(deep.bit_length() - 1)]


@gluon.jit
def _place(stage, end, layout: gl.constexpr):
    """First input [deep, 1, 1] of each warp's share of a round of stages, and whether it is before `end`."""
    deep: gl.constexpr = layout.shape[0]
    warp = gl.arange(0, deep, layout=gl.SliceLayout(1, gl.SliceLayout(2, layout)))
    at = gl.expand_dims(gl.expand_dims(stage + warp, 1), 2) * STAGE
    return at, at < end


@gluon.jit
def _along(size: gl.constexpr, dim: gl.constexpr, layout: gl.constexpr):
    """0 .. size - 1 along dimension 1 or 2 of three."""
    other: gl.constexpr = 3 - dim
    return gl.expand_dims(gl.expand_dims(gl.arange(0, size, layout=gl.SliceLayout(0, gl.SliceLayout(other, layout))), 0), other)


@gluon.jit
def _codes(codes, first, stage, end, number: gl.constexpr, n, wide: gl.constexpr, reps: gl.constexpr, block: gl.constexpr,
           layout: gl.constexpr):  # fmt: skip
    """Block `number` of a stage, int32 [deep, outputs, 8], two numbers each; past `end` anything. `first`: the program's first output."""
    at, inside = _place(stage, end, layout)
    deep: gl.constexpr = layout.shape[0]
    tile = _along(wide * reps, 1, layout)
    offset = (at // block + number) * (n * 8) + (first + (tile % wide * reps + tile // wide) * 16) * 8 + _along(128, 2, layout)
    found = gl.load(  # read once: x is what the caches are for
        codes.to(gl.pointer_type(gl.int32), bitcast=True) + offset, mask=gl.broadcast(inside, offset)[0], cache_modifier=".cg"
    )  # fmt: skip
    found = found.reshape([deep, wide * reps, 8, 4, 2, 2]).permute([0, 1, 4, 2, 5, 3]).reshape([deep, wide * reps * 16, 8])
    return gl.convert_layout(found, in_pairs(deep, wide, reps), assert_trivial=True)


@gluon.jit
def _facts(part, first, stage, end, number: gl.constexpr, n, wide: gl.constexpr, units: gl.constexpr, size: gl.constexpr,
           layout: gl.constexpr):  # fmt: skip
    """Scales, zeros or least values [deep, units, 32] of group `number` of a stage; `size` inputs share one, 0: all."""
    at, inside = _place(stage, end, layout)
    unit = _along(wide * units, 1, layout)
    group = (at + number * size) // size if size else at * 0
    offset = group * n + first + (unit % wide * units + unit // wide) * 32 + _along(32, 2, layout)
    return gl.load(part + offset, mask=gl.broadcast(inside, offset)[0], other=0)


@gluon.jit
def spread(facts, wide: gl.constexpr, units: gl.constexpr, target: gl.constexpr):
    """Facts as [deep, outputs], in the order of the product's rows."""
    deep: gl.constexpr = facts.shape[0]
    facts = facts.reshape([deep, units, wide, 8, 2, 2]).permute([0, 1, 4, 2, 5, 3]).reshape([deep, wide * units * 32])
    return gl.convert_layout(facts, target, assert_trivial=True)


@gluon.jit
def fetch(
    codes, scale, least, first, stage, end, n,
    wide: gl.constexpr, units: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, block: gl.constexpr,
    in_codes: gl.constexpr, in_facts: gl.constexpr,
):  # fmt: skip
    """What a stage reads of the weight: its blocks of codes, then per group the scale and, where there is one, zero or least value."""
    found = ()
    for number in gl.static_range(STAGE // block):
        found = found + (_codes(codes, first, stage, end, number, n, wide, 2 * units, block, in_codes),)
    for number in gl.static_range(STAGE // group if group else 1):
        found = found + (_facts(scale, first, stage, end, number, n, wide, units, group, in_facts),)
    if kind != "":
        for number in gl.static_range(STAGE // group if group else 1):
            found = found + (_facts(least, first, stage, end, number, n, wide, units, group, in_facts),)
    return found


@gluon.jit
def widened(pairs, low, high, number: gl.constexpr, bits: gl.constexpr):
    """Code `number` of pairs of numbers int32 [deep, outputs, 8], less what is taken off, bf16 [deep, outputs, 16]."""
    if bits == 4:
        off = low if number == 0 else high
        a, b = gl.inline_asm_elementwise(
            NIBBLES[number], "=h,=h,r,r", [pairs, gl.broadcast(off, pairs)[0]], (gl.bfloat16, gl.bfloat16), True, 1
        )
    else:
        a, b = gl.inline_asm_elementwise(BYTES[number], "=h,=h,r", [pairs], (gl.bfloat16, gl.bfloat16), True, 1)
    return gl.join(a, b).reshape([pairs.shape[0], pairs.shape[1], 16])


@gluon.jit
def both(zero):
    """What is taken off 128 and off 16 plus a code, as pairs of bf16, for zeros int32 [deep, outputs]."""
    return gl.expand_dims((zero + 0x4300) * 0x10001, 2), gl.expand_dims(((zero << 3) + 0x4180) * 0x10001, 2)


@gluon.jit
def _stage(
    total, taken, x, stage, end, m, k, wide_scale, wide_least, first, n,
    wide: gl.constexpr, units: gl.constexpr, bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr,
    wide_group: gl.constexpr, block: gl.constexpr, rows: gl.constexpr, in_facts: gl.constexpr, in_x: gl.constexpr,
):  # fmt: skip
    """`total` and what the inputs of a stage add to it; `taken`: what `_fetch` found of it."""
    mma: gl.constexpr = total.type.layout
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    deep: gl.constexpr = total.shape[0]
    outputs: gl.constexpr = total.shape[1]
    chain: gl.constexpr = group if group else STAGE
    blocks: gl.constexpr = STAGE // block
    groups: gl.constexpr = STAGE // chain
    pairs: gl.constexpr = taken[0].type.layout
    at, inside = _place(stage, end, in_x)
    row = gl.minimum(gl.program_id(1) * rows + _along(rows, 1, in_x), m - 1)  # there are no more: any will do, and so past the end,
    source = x + row * k + gl.minimum(at, end - STAGE) + _along(16, 2, in_x)  # where scales are 0
    low, high = both(gl.full([deep, outputs], middle, gl.int32, gl.SliceLayout(2, pairs)))
    if kind == "sum":
        ones = gl.full([deep, outputs, 16], 1.0, gl.bfloat16, left)
    if wide_group:
        far = spread(_facts(wide_scale, first, stage, end, 0, n, wide, units, wide_group, in_facts), wide, units, gl.SliceLayout(2, mma))
        far = gl.expand_dims(far.to(gl.float32), 2)
    dot = gl.zeros([deep, outputs, rows], gl.float32, mma)
    sums = dot
    for number in gl.static_range(STAGE // 16):
        if number * 16 % chain == 0:
            dot = gl.zeros([deep, outputs, rows], gl.float32, mma)
            sums = dot
            if kind == "zero":
                zero = spread(taken[blocks + groups + number * 16 // chain], wide, units, gl.SliceLayout(2, pairs))
                low, high = both(zero.to(gl.int32))
        weight = widened(taken[number * 16 // block], low, high, number * 16 % block // 16, bits)
        weight = gl.convert_layout(weight, left, assert_trivial=True)
        part = gl.load(source + number * 16)
        part = part.reshape([deep, rows, 4, 2, 2]).permute([0, 3, 2, 4, 1]).reshape([deep, 16, rows])
        part = gl.convert_layout(part, right, assert_trivial=True)
        dot = mma_v2(weight, part, dot)
        if kind == "sum":
            sums = mma_v2(ones, part, sums)
        if (number + 1) * 16 % chain == 0:
            times = spread(taken[blocks + number * 16 // chain], wide, units, gl.SliceLayout(2, mma)).to(gl.float32)
            times = gl.expand_dims(times, 2)
            if wide_group:
                times = times * far
            total = gl.fma(dot, gl.broadcast(times, total)[0], total)
            if kind == "sum":
                off = spread(taken[blocks + groups + number * 16 // chain], wide, units, gl.SliceLayout(2, mma)).to(gl.float32)
                off = gl.expand_dims(off, 2)
                if wide_group:
                    least_far = _facts(wide_least, first, stage, end, 0, n, wide, units, wide_group, in_facts)
                    off = off * gl.expand_dims(spread(least_far, wide, units, gl.SliceLayout(2, mma)).to(gl.float32), 2)
                total = gl.fma(sums, gl.broadcast(-off, total)[0], total)
    return total


@gluon.jit(
    do_not_specialize=["m", "stride", "outputs", "units_n", "units_k", "per", "pieces"], do_not_specialize_on_alignment=["bias", "out"]
)
def _product(
    x, codes, scale, least, wide_scale, wide_least, bias, out, scratch, arrived, m, stride, outputs, units_n, units_k, per,
    squares, norm_weight, scaled, pieces, share, eps,
    bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
    has_bias: gl.constexpr, rows: gl.constexpr, deep: gl.constexpr, wide: gl.constexpr, each: gl.constexpr, ahead: gl.constexpr,
    gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    units: gl.constexpr = each // 32
    in_codes: gl.constexpr = raw_codes(deep, wide, 2 * units)
    in_facts: gl.constexpr = raw_facts(deep, wide, units)
    in_x: gl.constexpr = raw_x(deep, wide, rows)
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [deep, wide, 1], [1, 16, 8])
    n, k = units_n * 128, units_k * 128
    size: gl.constexpr = wide * each
    first = gl.program_id(0) * size
    stage = gl.program_id(2) * per
    last = gl.minimum(stage + per, units_k)
    end = last * STAGE
    total = gl.zeros([deep, size, rows], gl.float32, mma)
    waiting = ()
    for number in gl.static_range(ahead):
        fetched = fetch(
            codes, scale, least, first, stage + number * deep, end, n, wide, units, group, kind, block, in_codes, in_facts
        )  # fmt: skip
        waiting = waiting + (fetched,)
    await_turn()
    in_sums: gl.constexpr = gl.SliceLayout(0, mma)
    normed = (norm_factor(squares, gl.program_id(1) * rows, m, pieces, share, eps, size, rows, in_sums, norm), squares, norm_weight, scaled)
    for now in range(stage, last, deep * ahead):
        coming = ()
        for number in gl.static_range(ahead):
            total = _stage(
                total, waiting[number], x, now + number * deep, end, m, k, wide_scale, wide_least, first, n,
                wide, units, bits, group, kind, middle, wide_group, block, rows, in_facts, in_x,
            )  # fmt: skip
            fetched = fetch(  # into the registers that are free now
                codes, scale, least, first, now + (ahead + number) * deep, end, n,
                wide, units, group, kind, block, in_codes, in_facts,
            )  # fmt: skip
            coming = coming + (fetched,)
        waiting = coming
    whole = gl.sum(total, axis=0)  # [size, rows]
    settle(whole, normed, bias, out, scratch, arrived, m, stride, outputs, n, first, wide, units, has_bias, gate, norm)


@gluon.jit
def settle(
    whole, normed, bias, out, scratch, arrived, m, stride, outputs, n, first,
    wide: gl.constexpr, units: gl.constexpr, has_bias: gl.constexpr, gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    """Ends a program's [outputs, rows] (ends.py); where there are several segments, their sum, by the program that comes last."""
    index = gl.arange(0, whole.shape[0], layout=gl.SliceLayout(1, whole.type.layout))
    tile = index // 16
    column = first + (tile % wide * (2 * units) + tile // wide) * 16 + index % 16
    row = gl.program_id(1) * whole.shape[1] + gl.arange(0, whole.shape[1], layout=gl.SliceLayout(0, whole.type.layout))
    segment, segments = gl.program_id(2), gl.num_programs(2)
    column, row = gl.expand_dims(column, 1), gl.expand_dims(row, 0)
    done = segments == 1
    if segments > 1:
        place = row * n + column
        gl.store(scratch + segment * m * n + place, whole, mask=row < m)
        gl.thread_barrier()
        counter = arrived + gl.program_id(1) * gl.num_programs(0) + gl.program_id(0)
        done = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == segments - 1
        if done:
            whole = gl.load(scratch + place, mask=row < m, other=0.0, cache_modifier=".cg")
            for other in range(1, segments):
                whole += gl.load(scratch + other * m * n + place, mask=row < m, other=0.0, cache_modifier=".cg")
            gl.store(counter, 0)
    if done:
        store(whole, normed, bias, out, row, column, gl.program_id(0), m, stride, outputs, has_bias, gate, norm)


def segments_of(form: Form, stream: Stream) -> tuple[int, int]:
    """(segments, stages of each) of a layer: as many as fill the GPU, each with a stage for every warp."""
    return cut(form.k // STEP, form.n // stream.each, stream.deep, stream.fill)


def cut(stages: int, tiles: int, deep: int, fill: int) -> tuple[int, int]:
    """(segments, stages of each) of `tiles` with `deep` warps: as many as `fill` warps take, each with a stage for every warp."""
    per = triton.cdiv(stages, max(1, min(fill // (tiles * deep), stages // deep)))
    per = triton.cdiv(per, deep) * deep
    return triton.cdiv(stages, per), per


@cache
def variant(form: Form, has_bias: bool, stream: Stream, ending: Ending = AS_IT_IS) -> Variant:
    """The form for all layers of such weights, with such an end."""
    constants = {
        **meaning(form), "has_bias": has_bias, **ending.constants,
        "rows": stream.rows, "deep": stream.deep, "wide": stream.wide, "each": stream.each, "ahead": stream.ahead,
    }  # fmt: skip
    operands = ("*bf16", *types(form), "*fp32", ending.out, "*fp32", "*i32")
    return Variant(_product, constants, (*operands, *["i32"] * 6, *OPERANDS), stream.deep * stream.wide)


def fitting(form: Form, stream: Stream) -> Stream:
    """`stream`, with fewer warps beside each other where the layer's outputs are no multiple of theirs; no bits depend on that."""
    while form.n % stream.outputs:
        stream = replace(stream, wide=stream.wide // 2)
    return stream


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, stream: Stream, end: End = PLAIN) -> None:
    """out = x @ weight.T + bias, of one layer one at a time: its programs count each other.

    Args:
        x: bf16 [m, form.k]: inputs past the layer's own are 0.
        bias: fp32 [outputs], or None.
        out: fp32 [m, outputs], whose rows may lie apart; gated results may be bf16.
        stream: one that fits, see `fitting`.
        end: what is done besides. Of a layer that is gated out is [m, outputs / 2], of one that adds the stream.

    Raises:
        InputError: a tensor does not fit.
    """
    form, m = packed.form, x.shape[0]
    fits("product", "x", x, (m, form.k), torch.bfloat16)
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    segments, per = segments_of(form, stream)
    kernel = variant(form, bias is not None, stream, end.ending(out))
    launch(kernel, x, packed, bias, out, stream.rows, stream.outputs, segments, per, end)


def launch(
    kernel: Variant, x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, rows: int, outputs: int, segments: int, per: int, end: End
) -> None:  # fmt: skip
    """Runs programs of `rows` by `outputs` and a segment of `per` stages each; as many rows at a time as segments can be counted for."""
    form, m, tiles = packed.form, x.shape[0], packed.form.n // outputs
    most = m if segments == 1 else rows * (len(packed.arrived) // tiles)
    scratch = torch.empty(segments if segments > 1 else 0, min(m, most), form.n, device=x.device)
    operands = (packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least, scratch if bias is None else bias)
    measures = (form.outputs, form.n // 128, form.k // STEP, per, *end.operands(form.inputs, tiles, x.device))
    for first in range(0, m, max(most, 1)):
        part, to = x[first : first + most], out[first : first + most]
        grid = (tiles, triton.cdiv(len(part), rows), segments)
        kernel.launch(grid, part, *operands, to, scratch, packed.arrived, len(part), out.stride(0), *measures)
