"""Products of tens to thousands of rows with weights of 4 or 8 bits whose scales go into the weight before it is multiplied.

Owns the kernel (Gluon), its tiles and what a program's part of memory is. Codes come from memory straight into registers, in whose
order they lie (packing.py); a shift, a mask, a difference and a product make two weights bf16 of two codes, and groups of four warps
(wgmma) multiply by them as they are. So no sum belongs to a group, and the tensor cores run on over a whole segment of K: a piece of
the weight is made while the piece before is multiplied. Activations go through shared memory, their inputs in the order that a
thread's registers have.

A weight is `bf16((code - zero) * bf16(scale))`, or with a least value `bf16(code * bf16(scale) - bf16(least))`; a scale that all inputs
of an output share meets the sum in fp32. This is for fast settings only (docs/numerics.md, section 5). Must not know who asks.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, warpgroup_mma, warpgroup_mma_wait

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.ends import norm_factor, store
from slipstream.ops.triton.fused import AS_IT_IS, OPERANDS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packed import meaning, types
from slipstream.ops.triton.packing import OUTPUTS, STEP, Form, Packed

HALF = gl.constexpr(64)  # inputs of a line of shared memory
FILL = 132 * 16  # warps that keep an H100 or H200 busy
PIECE = 32  # inputs of the weight that are made while as many are multiplied

# Two codes of a register to two bf16. A nibble is the lowest bits of the fraction of 128 or, shifted less often, the upper ones of the
# fraction of 16, which is taken off with the zero; a byte is its low seven bits less 128 where it is negative. Then the scale.
_FOLD = ("", "mul.rn.bf16x2 t, t, $4;", "fma.rn.bf16x2 t, t, $4, $5;")  # no scale, one, one and a least value
_NIBBLE = "{ .reg .b32 t; %s lop3.b32 t, t, %s, 0xEA; sub.rn.bf16x2 t, t, $3; %s mov.b32 {$0, $1}, t; }"
_BYTE = (
    "{ .reg .b32 t, u; shr.b32 t, $2, %d; lop3.b32 u, t, 0x00800080, 0x43004300, 0xEA; "
    "lop3.b32 t, t, 0x007F007F, 0x43004300, 0xEA; sub.rn.bf16x2 t, t, u; %s mov.b32 {$0, $1}, t; }"
)
_LOW, _HIGH = "0x000F000F, 0x43004300", "0x00780078, 0x41804180"
_SHIFTS = (("mov.b32 t, $2;", _LOW), *((f"shr.b32 t, $2, {shift};", _HIGH) for shift in (1, 5, 9)))
FOUR_BITS = gl.constexpr(tuple(_NIBBLE % (*shift, fold) for fold in _FOLD for shift in _SHIFTS))
EIGHT_BITS = gl.constexpr(tuple(_BYTE % (shift, fold) for fold in _FOLD for shift in (0, 8)))
TWICE = gl.constexpr("cvt.rn.bf16x2.f32 $0, $1, $1;")


@dataclass(frozen=True, slots=True)
class Folded:
    """A program's part of the result and its warps.

    Attributes:
        rows: of x, a power of two from 8 on.
        warps: four or a multiple of it.
        each: outputs of a warp, 16 or 32.
        depth: inputs of a stage, 64 or 128, for which x is laid out at once.
        ahead: stages whose codes are read before they are multiplied.
        sides: stages of x that shared memory holds: what is multiplied, what is there, what is on its way.
        fill: a layer has as many segments as such a number of warps takes.
        registers: most per thread; 0 leaves it to the compiler.
        across: lines of x, of 64 inputs, that a warp copies at a time, 1 or 2 halves of them.
    """

    rows: int
    warps: int = 8
    each: int = 16
    depth: int = 128
    ahead: int = 2
    sides: int = 2
    fill: int = FILL
    registers: int = 0
    across: int = 2

    @property
    def outputs(self) -> int:
        return self.warps * self.each


@gluon.constexpr_function
def _bits(count, step):
    """Steps of a layout over a power of two of places."""
    return [step * (1 << bit) for bit in range(count.bit_length() - 1)]


@gluon.constexpr_function
def in_memory(warps, reps):
    """Layout of codes [tiles of 16 outputs, 128 pairs of numbers]: four neighbours to a thread, 16 bytes."""
    reg = [[0, 1], [0, 2], *([step, 0] for step in _bits(reps, warps))]
    lane, warp = [[0, step] for step in _bits(32, 4)], [[step, 0] for step in _bits(warps, 1)]
    return gl.DistributedLinearLayout(reg, lane, warp, [], [warps * reps, 128])


@gluon.constexpr_function
def in_pairs(warps, reps):
    """The same as [outputs, 8 pairs of inputs], as wgmma takes its left operand."""
    reg = [[0, 4], [8, 0], *([step, 0] for step in _bits(reps, 16 * warps))]
    lane, warp = [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], [[step, 0] for step in _bits(warps, 16)]
    return gl.DistributedLinearLayout(reg, lane, warp, [], [16 * warps * reps, 8])


@gluon.constexpr_function
def facts_in_memory(warps, reps):
    """Layout of scales and the like [warps, 16 or 32]: those of a thread's outputs beside each other."""
    reg = [[0, step] for step in _bits(2 * reps, 1)]
    lane = [[0, 0], [0, 0], *([0, step] for step in _bits(8, 2 * reps))]
    return gl.DistributedLinearLayout(reg, lane, [[step, 0] for step in _bits(warps, 1)], [], [warps, 16 * reps])


@gluon.constexpr_function
def in_lines(warps, lines, across):
    """Layout of x [lines, HALF]: pairs to a thread; a warp copies a line, or halves of two, four apart, which lie in different banks."""
    others, count = [step for step in _bits(lines, 1) if step != 4 or across == 1], len(_bits(warps, 1))
    lane, warp = [[0, step] for step in _bits(16, 2)], [[step, 0] for step in others[:count]]
    reg = [[0, 1], *([[0, 32]] if across == 2 else []), *([step, 0] for step in others[count:])]
    last = [4, 0] if across == 2 else [0, 32]
    return gl.DistributedLinearLayout(reg, [*lane, last], warp + [[0, 0]] * (count - len(warp)), [], [lines, 64])


@gluon.jit
def _codes(codes, first, at, there, n, warps: gl.constexpr, reps: gl.constexpr, block: gl.constexpr):
    """The block of codes from input `at` on, int32 [outputs, 8], two numbers each; 0 if it is not `there`."""
    layout: gl.constexpr = in_memory(warps, reps)
    tile = gl.expand_dims(gl.arange(0, warps * reps, layout=gl.SliceLayout(1, layout)), 1)
    place = (tile % warps * reps + tile // warps) * 128 + gl.expand_dims(gl.arange(0, 128, layout=gl.SliceLayout(0, layout)), 0)
    source = codes.to(gl.pointer_type(gl.int32), bitcast=True) + at // block * (n * 8) + first * 8
    found = gl.load(source + place, mask=there, other=0, cache_modifier=".cg")  # read once: x is what the caches are for
    found = found.reshape([warps * reps, 8, 4, 2, 2]).permute([0, 3, 1, 4, 2]).reshape([warps * reps * 16, 8])
    return gl.convert_layout(found, in_pairs(warps, reps), assert_trivial=True)


@gluon.jit
def _facts(part, first, group, there, n, warps: gl.constexpr, reps: gl.constexpr):
    """Scales, zeros or least values [warps, 16 or 32] of a group."""
    layout: gl.constexpr = facts_in_memory(warps, reps)
    warp = gl.expand_dims(gl.arange(0, warps, layout=gl.SliceLayout(1, layout)), 1)
    number = gl.expand_dims(gl.arange(0, 16 * reps, layout=gl.SliceLayout(0, layout)), 0)
    place = warp // 2 * 32 + warp % 2 * 2 + number // 2 * 4 + number % 2 if reps == 1 else warp * 32 + number
    return gl.load(part + group * n + first + place, mask=there, other=0)


@gluon.jit
def _by_output(facts, warps: gl.constexpr, reps: gl.constexpr, target: gl.constexpr):
    """Facts as [outputs], in the order of the product's rows."""
    facts = facts.reshape([warps, 8, reps, 2]).permute([2, 0, 3, 1]).reshape([warps * 16 * reps])
    return gl.convert_layout(facts, target, assert_trivial=True)


@gluon.jit
def _fetch(
    codes, scale, least, wide, wide_least, first, at, end, n,
    warps: gl.constexpr, reps: gl.constexpr, depth: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, wide_group: gl.constexpr,
    block: gl.constexpr,
):  # fmt: skip
    """What a stage reads of the weight: its blocks of codes, the scales of its groups, their zeros or least values, second factors."""
    there = at < end
    found = ()
    for number in gl.static_range(depth // block):
        found = found + (_codes(codes, first, at + number * block, there, n, warps, reps, block),)
    if group:
        for number in gl.static_range((depth + group - 1) // group):
            found = found + (_facts(scale, first, (at + number * group) // group, there, n, warps, reps),)
        if kind != "":
            for number in gl.static_range((depth + group - 1) // group):
                found = found + (_facts(least, first, (at + number * group) // group, there, n, warps, reps),)
    if wide_group:
        found = found + (_facts(wide, first, at // wide_group, there, n, warps, reps),)
        if kind == "sum":
            found = found + (_facts(wide_least, first, at // wide_group, there, n, warps, reps),)
    return found


@gluon.jit
def _bring(x, to, first, at, end, m, k, rows: gl.constexpr, warps: gl.constexpr, depth: gl.constexpr, across: gl.constexpr):
    """Sends inputs at .. at + depth - 1 of x to shared memory [halves * rows, HALF], in the order of the registers of the weight: pairs
    0 2 4 6 1 3 5 7 of every eight. Rows past m are the last again, and past `end` are the inputs before it."""
    layout: gl.constexpr = in_lines(warps, depth // HALF * rows, across)
    line = gl.arange(0, depth // HALF * rows, layout=gl.SliceLayout(1, layout))
    place = gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
    column = place // 16 * 16 + place % 8 // 2 * 4 + place % 16 // 8 * 2 + place % 2
    column = gl.max_contiguous(gl.multiple_of(column, [2]), [2])  # four bytes at a time, what the compiler does not see
    row = gl.minimum(first + line % rows, m - 1)
    source = x + gl.minimum(at, end - depth) + gl.expand_dims(row * k + line // rows * HALF, 1)
    async_copy.async_copy_global_to_shared(to, source + gl.expand_dims(column, 0))
    async_copy.commit_group()


@gluon.jit
def _twice(number):
    """Two bf16 of every fp32."""
    return gl.inline_asm_elementwise(TWICE, "=r,f", [number], gl.int32, True, 1)


@gluon.jit
def _like(facts, target):
    return gl.broadcast(gl.expand_dims(facts, 1), target)[0]


@gluon.jit
def _meant(
    taken, at: gl.constexpr, warps: gl.constexpr, reps: gl.constexpr, depth: gl.constexpr, bits: gl.constexpr,
    group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
):  # fmt: skip
    """Inputs at .. at + 15 of a stage of the weight, bf16 [outputs, 16]."""
    target: gl.constexpr = gl.SliceLayout(1, in_pairs(warps, reps))
    blocks: gl.constexpr = depth // block
    groups: gl.constexpr = (depth + group - 1) // group if group else 0
    number: gl.constexpr = at % block // 16
    pairs = taken[at // block]
    way: gl.constexpr = 0 if group == 0 else 2 if kind == "sum" else 1
    operands = (pairs,)
    if bits == 4:
        zero = gl.full([warps * 16 * reps], middle, gl.int32, target)
        if kind == "zero":
            zero = _by_output(taken[blocks + groups + at // group], warps, reps, target).to(gl.int32)
        off = (zero + 0x4300) * 0x10001 if number == 0 else ((zero << 3) + 0x4180) * 0x10001
        operands = operands + (_like(off, pairs),)
    else:
        operands = operands + (pairs,)
    if group:
        times = _by_output(taken[blocks + at // group], warps, reps, target).to(gl.float32)
        if wide_group:
            far: gl.constexpr = blocks + groups * (2 if kind != "" else 1)
            times = times * _by_output(taken[far], warps, reps, target).to(gl.float32)
        operands = operands + (_like(_twice(times), pairs),)
    if kind == "sum":
        less = _by_output(taken[blocks + groups + at // group], warps, reps, target).to(gl.float32)
        less = less * _by_output(taken[far + 1], warps, reps, target).to(gl.float32)
        operands = operands + (_like(_twice(-less), pairs),)
    text: gl.constexpr = FOUR_BITS[way * 4 + number] if bits == 4 else EIGHT_BITS[way * 2 + number]
    constraints: gl.constexpr = "=h,=h,r,r" + (",r" if group else "") + (",r" if kind == "sum" else "")
    a, b = gl.inline_asm_elementwise(text, constraints, operands, (gl.bfloat16, gl.bfloat16), True, 1)
    return gl.join(a, b).reshape([pairs.shape[0], 16])


@gluon.jit
def _weight(
    taken, at: gl.constexpr, length: gl.constexpr, warps: gl.constexpr, reps: gl.constexpr, depth: gl.constexpr, bits: gl.constexpr,
    group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
):  # fmt: skip
    """Inputs at .. at + length - 1 (16, 32 or 64 of them) of a stage of the weight, bf16 [outputs, length]."""
    if length == 16:
        return _meant(taken, at, warps, reps, depth, bits, group, kind, middle, wide_group, block)
    else:
        half: gl.constexpr = length // 2
        a = _weight(taken, at, half, warps, reps, depth, bits, group, kind, middle, wide_group, block)
        b = _weight(taken, at + half, half, warps, reps, depth, bits, group, kind, middle, wide_group, block)
        return gl.join(a, b).permute([0, 2, 1]).reshape([warps * 16 * reps, length])


@gluon.jit(
    do_not_specialize=["m", "stride", "outputs", "units_n", "units_k", "per", "pieces"], do_not_specialize_on_alignment=["bias", "out"]
)
def _product(
    x, codes, scale, least, wide, wide_least, bias, out, scratch, arrived, m, stride, outputs, units_n, units_k, per,
    squares, norm_weight, scaled, pieces, share, eps,
    bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, wide_group: gl.constexpr, block: gl.constexpr,
    has_bias: gl.constexpr, rows: gl.constexpr, warps: gl.constexpr, reps: gl.constexpr, depth: gl.constexpr, ahead: gl.constexpr,
    sides: gl.constexpr, across: gl.constexpr, piece: gl.constexpr,
    gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [warps, 1], [16, rows, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    size: gl.constexpr = warps * 16 * reps
    halves: gl.constexpr = depth // HALF
    n, k = units_n * 128, units_k * 128
    row, first = gl.program_id(0) * rows, gl.program_id(1) * size
    begin = gl.program_id(2) * per * 128
    end = gl.minimum(begin + per * 128, k)
    shared = gl.allocate_shared_memory(gl.bfloat16, [sides, halves * rows, HALF], gl.NVMMASharedLayout(128, 16, 2))
    total = gl.zeros([size, rows], gl.float32, mma)
    held = gl.zeros([size, piece], gl.bfloat16, left)  # what may still be read by the tensor cores
    waiting = ()
    for number in gl.static_range(ahead):
        fetched = _fetch(
            codes, scale, least, wide, wide_least, first, begin + number * depth, end, n, warps, reps, depth, group, kind, wide_group, block
        )  # fmt: skip
        waiting = waiting + (fetched,)
    await_turn()
    for number in gl.static_range(sides - 1):
        _bring(x, shared.index(number), row, begin + number * depth, end, m, k, rows, warps, depth, across)
    normed = (norm_factor(squares, row, m, pieces, share, eps, size, rows, mma, norm), squares, norm_weight, scaled)
    turns: gl.constexpr = max(ahead, sides)
    for round in range(begin, end, depth * turns):
        for turn in gl.static_range(turns):
            for number in gl.static_range(depth // piece):
                weight = _weight(waiting[0], number * piece, piece, warps, reps, depth, bits, group, kind, middle, wide_group, block)
                weight = gl.convert_layout(weight, left, assert_trivial=True)
                if number == 0:  # once all warps are here the side that was multiplied last is free
                    total, held = warpgroup_mma_wait(0, deps=[total, held])
                    async_copy.wait_group(sides - 2)
                    gl.thread_barrier()
                    to = shared.index((turn + sides - 1) % sides)
                    _bring(x, to, row, round + (turn + sides - 1) * depth, end, m, k, rows, warps, depth, across)
                right = shared.index(turn % sides).slice(number * piece // HALF * rows, rows, 0).slice(number * piece % HALF, piece, 1)
                total = warpgroup_mma(weight, right.permute((1, 0)), total, is_async=True)
                total, held = warpgroup_mma_wait(1, deps=[total, held])
                held = weight
            fetched = _fetch(  # into the registers that are free now
                codes, scale, least, wide, wide_least, first, round + (turn + ahead) * depth, end, n,
                warps, reps, depth, group, kind, wide_group, block,
            )  # fmt: skip
            waiting = waiting[1:] + (fetched,)
    async_copy.wait_group(0)
    total, held = warpgroup_mma_wait(0, deps=[total, held])
    if group == 0:
        times = _by_output(_facts(scale, first, 0, True, n, warps, reps), warps, reps, gl.SliceLayout(1, mma)).to(gl.float32)
        total = total * _like(times, total)
    _settle(total, normed, bias, out, scratch, arrived, row, first, m, stride, outputs, warps, reps, has_bias, gate, norm)


@gluon.jit
def _settle(
    whole, normed, bias, out, scratch, arrived, first_row, first, m, stride, outputs,
    warps: gl.constexpr, reps: gl.constexpr, has_bias: gl.constexpr, gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    """Writes a program's [outputs, rows]; where there are several segments, their sum, by the program that comes last."""
    size: gl.constexpr = whole.shape[0]
    rows: gl.constexpr = whole.shape[1]
    index = gl.arange(0, size, layout=gl.SliceLayout(1, whole.type.layout))
    number = gl.arange(0, rows, layout=gl.SliceLayout(0, whole.type.layout))
    unit = index // 16
    column = gl.expand_dims(first + (unit % warps * reps + unit // warps) * 16 + index % 16, 1)
    row = gl.expand_dims(first_row + number, 0)
    segment, segments = gl.program_id(2), gl.num_programs(2)
    done = segments == 1
    if segments > 1:
        tile = gl.program_id(1) * gl.num_programs(0) + gl.program_id(0)
        mine = scratch + tile * segments * (size * rows)
        upper = gl.expand_dims(index // 16 * 128 + index % 8 * 8 + index % 16 // 8 * 64, 1)
        place = upper + gl.expand_dims(number // 8 * (size * 8) + number % 8, 0)  # a warp's numbers lie beside each other
        gl.store(mine + segment * (size * rows) + place, whole)
        gl.thread_barrier()
        counter = arrived + tile
        done = gl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == segments - 1
        if done:
            whole = gl.load(mine + place, cache_modifier=".cg")
            some: gl.constexpr = 2 if reps * rows <= 64 else 1  # on their way at a time, in the registers that there are
            for other in range(1, segments - some + 1, some):
                coming = ()
                for step in gl.static_range(some):
                    coming = coming + (gl.load(mine + (other + step) * (size * rows) + place, cache_modifier=".cg"),)
                for step in gl.static_range(some):
                    whole += coming[step]
            if some == 2 and segments % 2 == 0:
                whole += gl.load(mine + (segments - 1) * (size * rows) + place, cache_modifier=".cg")
            gl.store(counter, 0)
    if done:
        store(whole, normed, bias, out, row, column, gl.program_id(1), m, stride, outputs, has_bias, gate, norm)


def fitting(form: Form, folded: Folded) -> Folded:
    """`folded`, with fewer warps where the layer's outputs are no multiple of theirs, and all registers where groups have much to say."""
    while form.n % folded.outputs:
        folded = replace(folded, warps=folded.warps // 2)
    return replace(folded, registers=0) if form.wide or (form.least and form.group <= 32) else folded


def segments_of(form: Form, folded: Folded) -> tuple[int, int]:
    """(segments, how many times 128 inputs each has) of a layer."""
    units = form.k // STEP
    per = triton.cdiv(units, max(1, min(folded.fill // (form.n // folded.each), units)))
    return triton.cdiv(units, per), per


@cache
def variant(form: Form, has_bias: bool, folded: Folded, ending: Ending = AS_IT_IS) -> Variant:
    """The form for all layers of such weights, with such an end."""
    constants = {
        **meaning(form), "has_bias": has_bias, **ending.constants, "rows": folded.rows, "warps": folded.warps, "reps": folded.each // 16,
        "depth": folded.depth, "ahead": folded.ahead, "sides": folded.sides, "across": folded.across, "piece": PIECE,
    }  # fmt: skip
    operands = ("*bf16", *types(form), "*fp32", ending.out, "*fp32", "*i32")
    return Variant(_product, constants, (*operands, *["i32"] * 6, *OPERANDS), folded.warps, registers=folded.registers)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, folded: Folded, end: End = PLAIN) -> None:
    """out = x @ weight.T + bias; arguments as in streamed.product."""
    form, m = packed.form, x.shape[0]
    fits("product", "x", x, (m, form.k), torch.bfloat16)
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    segments, per = segments_of(form, folded)
    tiles = form.n // folded.outputs
    kernel = variant(form, bias is not None, folded, end.ending(out))
    most = m if segments == 1 else folded.rows * (len(packed.arrived) // tiles)
    padded = triton.cdiv(min(m, most), folded.rows) * folded.rows
    scratch = torch.empty(segments if segments > 1 else 0, padded, form.n, device=x.device)
    operands = (packed.codes, packed.scale, packed.least, packed.wide, packed.wide_least, scratch if bias is None else bias)
    for first in range(0, m, max(most, 1)):
        part, to = x[first : first + most], out[first : first + most]
        grid = (triton.cdiv(len(part), folded.rows), tiles, segments)
        measures = (len(part), out.stride(0), form.outputs, form.n // OUTPUTS, form.k // STEP, per)
        besides = end.operands(form.inputs, tiles, x.device)
        kernel.launch(grid, part, *operands, to, scratch, packed.arrived, *measures, *besides)
