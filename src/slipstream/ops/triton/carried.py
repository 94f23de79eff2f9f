"""Products of few rows with packed weights by bulk copies: codes, scales and x through shared memory to single warps (mma.sync).

Owns the kernel (Gluon) and its tiles. The copy engine brings rounds of 128 inputs per warp that shares K into a ring: codes and scales
as they lie in memory (packing.py), one copy of each, and x in pieces of 16 inputs, so that what a warp reads of it lies in one line of
banks. The ring is filled with weights before the kernel's turn (chain.py), as in bulk.py. A round goes to registers at once, its place
is asked for anew, then it is multiplied: memory answers meanwhile. What a thread reads of the codes in 16 bytes is its part of tiles of
16 x 16, and the arithmetic of a row is that of streamed.py: per group `dot` from zero, `acc = fma(dot, scale, acc)`.

K is cut into segments, a program each; the warps that share one are added by a tree, segments by the last program to arrive
(streamed.py), in ascending order.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.ends import norm_factor
from slipstream.ops.triton.fused import AS_IT_IS, OPERANDS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.packed import meaning
from slipstream.ops.triton.packing import OUTPUTS, STEP, Form, Packed
from slipstream.ops.triton.streamed import both, cut, in_pairs, settle, spread, widened

ROUND = gl.constexpr(STEP)  # inputs of a warp
LINE = 32  # pairs of numbers of a line of shared memory
PIECE = 16  # inputs of x beside each other, and scales of a line
LINES = 8  # that Triton lays out at a time, at least


@dataclass(frozen=True, slots=True)
class Carried:
    """A program's part of the result and its warps.

    Attributes:
        rows: of x, at most: 8 or 16.
        deep, wide: warps that share the inputs of a segment, and the outputs.
        each: outputs of a warp, 32 or 64.
        ring: rounds that are on their way.
        fill: a layer has as many segments as such a number of programs takes.

    Raises:
        InputError: a round has fewer than eight lines of scales in groups of 128, or more outputs than all layers are a multiple of.
    """

    rows: int
    deep: int = 1
    wide: int = 4
    each: int = 32
    ring: int = 6
    fill: int = 396

    def __post_init__(self):
        if self.outputs > OUTPUTS or self.deep * self.outputs < LINES * PIECE:
            raise InputError(f"outputs = wide x each must be up to {OUTPUTS}, and deep x outputs {LINES * PIECE} or more; found {self}")

    @property
    def up_to(self) -> int:
        """Rows that one product takes; see tuned/."""
        return self.rows

    @property
    def outputs(self) -> int:
        return self.wide * self.each


@gluon.constexpr_function
def _steps(count, *step):
    """Steps of a layout over a power of two of places."""
    return [[part << bit for part in step] for bit in range(count.bit_length() - 1)]


@gluon.constexpr_function
def code_lines(deep, wide, reps):
    """Layout of codes [1, deep, lines, 32], four lines to a tile of 16 outputs: four neighbours to a thread, 16 bytes."""
    reg = [[0, 0, 0, 1], [0, 0, 0, 2], *_steps(reps, 0, 0, 4, 0)]
    lane = [[0, 0, 0, 4], [0, 0, 0, 8], [0, 0, 0, 16], [0, 0, 1, 0], [0, 0, 2, 0]]
    warp = _steps(wide, 0, 0, 4 * reps, 0) + _steps(deep, 0, 1, 0, 0)
    return gl.DistributedLinearLayout(reg, lane, warp, [], [1, deep, 4 * wide * reps, 32])


@gluon.constexpr_function
def fact_lines(deep, wide, units):
    """Layout of scales or zeros [1, deep, lines, 16], two lines to 32 outputs: the four of a thread beside each other."""
    reg = [[0, 0, 0, 1], [0, 0, 0, 2], *_steps(units, 0, 0, 2, 0)]
    lane = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4], [0, 0, 0, 8], [0, 0, 1, 0]]
    warp = _steps(wide, 0, 0, 2 * units, 0) + _steps(deep, 0, 1, 0, 0)
    return gl.DistributedLinearLayout(reg, lane, warp, [], [1, deep, 2 * wide * units, 16])


@gluon.constexpr_function
def x_lines(deep, wide, rows):
    """Layout of x [1, deep, rows, 16]: four neighbours to a thread, all warps of a `wide` alike."""
    reg, lane = [[0, 0, 0, 1], [0, 0, 0, 2], *_steps(rows // 8, 0, 0, 8, 0)], [[0, 0, 0, 4], [0, 0, 0, 8], *_steps(8, 0, 0, 1, 0)]
    return gl.DistributedLinearLayout(reg, lane, _steps(wide, 0, 0, 0, 0) + _steps(deep, 0, 1, 0, 0), [], [1, deep, rows, 16])


@gluon.jit
def _codes(slot, deep: gl.constexpr, wide: gl.constexpr, reps: gl.constexpr):
    """A block of a round, int32 [deep, outputs, 8], two numbers each, in the order of the product's rows."""
    found = slot.load(code_lines(deep, wide, reps)).reshape([deep, wide, reps, 8, 4, 2, 2])
    found = found.permute([0, 2, 1, 5, 3, 6, 4]).reshape([deep, reps * wide * 16, 8])
    return gl.convert_layout(found, in_pairs(deep, wide, reps), assert_trivial=True)


@gluon.jit
def _facts(slot, deep: gl.constexpr, wide: gl.constexpr, units: gl.constexpr):
    """Scales or zeros of a group of every warp's inputs [deep, units, wide, 32], for `spread`."""
    found = slot.load(fact_lines(deep, wide, units)).reshape([deep, wide, units, 32])
    return found.permute([0, 2, 1, 3])


@gluon.jit
def _bring(codes, scale, least, begin, first, has_least: gl.constexpr, to_codes, to_scale, to_least, full, pred):
    """Sends a round of the weight, from unit `begin` of 128 inputs on, to the ring. Past the layer's inputs come zeros."""
    tma.async_copy_global_to_shared(codes, [0, begin, first // 4, 0], full, to_codes, pred=pred)
    tma.async_copy_global_to_shared(scale, [0, begin, first // 16, 0], full, to_scale, pred=pred)
    if has_least:
        tma.async_copy_global_to_shared(least, [0, begin, first // 16, 0], full, to_least, pred=pred)


@gluon.jit
def _taken(
    slot_codes, slot_scale, slot_least, deep: gl.constexpr, wide: gl.constexpr, units: gl.constexpr, blocks: gl.constexpr,
    groups: gl.constexpr, has_least: gl.constexpr,
):  # fmt: skip
    """A round of the weight in registers: its blocks of codes, then per group the scale and, where there is one, the zero."""
    taken = ()
    for place in gl.static_range(blocks):
        taken = taken + (_codes(slot_codes.slice(place, 1), deep, wide, 2 * units),)
    for place in gl.static_range(groups):
        taken = taken + (_facts(slot_scale.slice(place, 1), deep, wide, units),)
    if has_least:
        for place in gl.static_range(groups):
            taken = taken + (_facts(slot_least.slice(place, 1), deep, wide, units),)
    return taken


@gluon.jit
def _multiplied(
    total, taken, parts, wide: gl.constexpr, units: gl.constexpr, bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr,
    middle: gl.constexpr, block: gl.constexpr,
):  # fmt: skip
    """`total` [deep, outputs, rows] and what a round adds to it: `taken` of the weight, `parts` of x, 16 inputs each."""
    mma: gl.constexpr = total.type.layout
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
    pairs: gl.constexpr = taken[0].type.layout
    deep: gl.constexpr = total.shape[0]
    width: gl.constexpr = total.shape[1]
    rows: gl.constexpr = total.shape[2]
    blocks: gl.constexpr = ROUND // block
    groups: gl.constexpr = ROUND // group
    low, high = both(gl.full([deep, width], middle, gl.int32, gl.SliceLayout(2, pairs)))
    dot = gl.zeros([deep, width, rows], gl.float32, mma)
    for place in gl.static_range(ROUND // 16):
        if place * 16 % group == 0:
            dot = gl.zeros([deep, width, rows], gl.float32, mma)
            if kind == "zero":
                zero = spread(taken[blocks + groups + place * 16 // group], wide, units, gl.SliceLayout(2, pairs))
                low, high = both(zero.to(gl.int32))
        weight = widened(taken[place * 16 // block], low, high, place * 16 % block // 16, bits)
        weight = gl.convert_layout(weight, left, assert_trivial=True)
        part = parts[place].reshape([deep, rows, 4, 2, 2]).permute([0, 3, 2, 4, 1]).reshape([deep, 16, rows])
        dot = mma_v2(weight, gl.convert_layout(part, right, assert_trivial=True), dot)
        if (place + 1) * 16 % group == 0:
            times = spread(taken[blocks + place * 16 // group], wide, units, gl.SliceLayout(2, mma)).to(gl.float32)
            total = gl.fma(dot, gl.broadcast(gl.expand_dims(times, 2), total)[0], total)
    return total


@gluon.jit(do_not_specialize=["m", "stride", "outputs", "n", "rounds", "per", "pieces"], do_not_specialize_on_alignment=["bias", "out"])
def _product(
    x, codes, scale, least, bias, out, scratch, arrived, m, stride, outputs, n, rounds, per,
    squares, norm_weight, scaled, pieces, share, eps,
    bits: gl.constexpr, group: gl.constexpr, kind: gl.constexpr, middle: gl.constexpr, block: gl.constexpr, has_bias: gl.constexpr,
    rows: gl.constexpr, deep: gl.constexpr, wide: gl.constexpr, each: gl.constexpr, ring: gl.constexpr, size: gl.constexpr,
    gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    units: gl.constexpr = each // 32
    blocks: gl.constexpr = ROUND // block
    groups: gl.constexpr = ROUND // group
    width: gl.constexpr = wide * each
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [deep, wide, 1], [1, 16, 8])
    has_least: gl.constexpr = kind == "zero"
    first = gl.program_id(0) * width
    begin = gl.program_id(2) * per
    count = gl.minimum(per, rounds - begin)
    in_codes = gl.allocate_shared_memory(gl.int32, [ring, blocks, deep, width // 4, 32], codes.layout)
    in_scale = gl.allocate_shared_memory(scale.dtype, [ring, groups, deep, width // 16, 16], scale.layout)
    in_least = in_scale
    if has_least:
        in_least = gl.allocate_shared_memory(least.dtype, [ring, groups, deep, width // 16, 16], least.layout)
    in_x = gl.allocate_shared_memory(gl.bfloat16, [ring, ROUND // 16, deep, rows, 16], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [ring, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(ring):
        mbarrier.init(full.index(slot), count=1)
    for slot in gl.static_range(ring):
        mbarrier.expect(full.index(slot), size, pred=slot < count)
        _bring(
            codes, scale, least, (begin + slot) * deep, first, has_least,
            in_codes.index(slot), in_scale.index(slot), in_least.index(slot), full.index(slot), slot < count,
        )  # fmt: skip
    await_turn()
    for slot in gl.static_range(ring):
        tma.async_copy_global_to_shared(x, [0, (begin + slot) * deep, 0, 0], full.index(slot), in_x.index(slot), pred=slot < count)
    normed = (norm_factor(squares, 0, m, pieces, share, eps, width, rows, gl.SliceLayout(0, mma), norm), squares, norm_weight, scaled)
    total = gl.zeros([deep, width, rows], gl.float32, mma)
    for number in range(count):
        own = number % ring
        mbarrier.wait(full.index(own), number // ring % 2)
        taken = _taken(in_codes.index(own), in_scale.index(own), in_least.index(own), deep, wide, units, blocks, groups, has_least)
        parts = ()
        for place in gl.static_range(ROUND // 16):
            parts = parts + (in_x.index(own).slice(place, 1).load(x_lines(deep, wide, rows)),)
        gl.thread_barrier()  # all warps have the round in registers
        coming = number + ring < count
        at = (begin + number + ring) * deep
        mbarrier.expect(full.index(own), size, pred=coming)
        _bring(
            codes, scale, least, at, first, has_least,
            in_codes.index(own), in_scale.index(own), in_least.index(own), full.index(own), coming,
        )  # fmt: skip
        tma.async_copy_global_to_shared(x, [0, at, 0, 0], full.index(own), in_x.index(own), pred=coming)
        total = _multiplied(total, taken, parts, wide, units, bits, group, kind, middle, block)
    settle(gl.sum(total, axis=0), normed, bias, out, scratch, arrived, m, stride, outputs, n, first, wide, units, has_bias, gate, norm)


def serves(form: Form) -> bool:
    """Whether such a layer can be multiplied here: one scale for 32, 64 or 128 inputs, and at most a zero beside it."""
    return form.group in (32, 64, 128) and not form.wide and form.least != "sum"


def _layout(bits: int, numbers: int) -> gl.NVMMASharedLayout:
    """Lines of so many numbers, as bulk copies write them; all that is copied has four dimensions."""
    size = numbers * bits // 8  # bytes
    return gl.NVMMASharedLayout(swizzle_byte_width=size if size > 16 else 0, element_bitwidth=bits, rank=4)


def _boxes(form: Form, carried: Carried) -> dict[str, tuple[str, int, list[int]]]:
    """Of x, codes, scales and zeros: type as Triton names it, its bits, and what a round is of it."""
    facts = [STEP // form.group, carried.deep, carried.outputs // PIECE, PIECE]
    scale, least = form.scale[1:], "u8" if form.least else form.scale[1:]
    size = {"fp16": 16, "fp32": 32, "u8": 8, "i8": 8}
    return {
        "x": ("bf16", 16, [STEP // PIECE, carried.deep, carried.rows, PIECE]),
        "codes": ("i32", 32, [STEP // form.block, carried.deep, carried.outputs // 4, LINE]),
        "scale": (scale, size[scale], facts),
        "least": (least, size[least], facts),
    }


def round_size(form: Form, carried: Carried) -> int:
    """Bytes of a round of the ring."""
    boxes = _boxes(form, carried)
    return sum(bits // 8 * int(torch.Size(box).numel()) for key, (_, bits, box) in boxes.items() if key != "least" or form.least)


@cache
def variant(form: Form, has_bias: bool, carried: Carried, ending: Ending = AS_IT_IS) -> Variant:
    """The form for all layers of such weights, with such an end."""
    known = {key: value for key, value in meaning(form).items() if key != "wide_group"}
    constants = {
        **known, "has_bias": has_bias, "rows": carried.rows, "deep": carried.deep, "wide": carried.wide, "each": carried.each,
        "ring": carried.ring, "size": round_size(form, carried), **ending.constants,
    }  # fmt: skip
    described = (f"tensordesc<{kind}{box},{_layout(bits, box[-1])!r}>" for kind, bits, box in _boxes(form, carried).values())
    types = (*described, "*fp32", ending.out, "*fp32", "*i32", *["i32"] * 6, *OPERANDS)
    return Variant(_product, constants, types, carried.deep * carried.wide)


def product(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, carried: Carried, end: End = PLAIN) -> None:
    """out = x @ weight.T + bias, of one layer one at a time: its programs count each other.

    Args:
        x: bf16 [m, form.k], m up to carried.rows: inputs past the layer's own are 0.
        packed: a layer that `serves`.
        bias: fp32 [outputs], or None.
        out: fp32 [m, outputs], whose rows may lie apart; gated results may be bf16.
        end: what is done besides, see streamed.product.

    Raises:
        InputError: a tensor does not fit.
    """
    form, m = packed.form, x.shape[0]
    fits("product", "x", x, (m, form.k), torch.bfloat16)
    if m > carried.rows or not serves(form):
        raise InputError(
            f"product: takes up to {carried.rows} rows and groups of 32, 64 or 128 with a scale and a zero; found {m} rows, {form}"
        )
    if bias is not None:
        row_facts("product", "bias", bias, form.outputs, torch.float32)
    if not m:
        return
    n, units = form.n, form.k // STEP
    views = {  # [place in a round, round, outputs or rows, line]
        "x": x.view(m, units, -1, PIECE).permute(2, 1, 0, 3),
        "codes": packed.codes.view(torch.int32).view(units, -1, n // 4, LINE).permute(1, 0, 2, 3),
        "scale": packed.scale.view(units, -1, n // PIECE, PIECE).permute(1, 0, 2, 3),
        "least": packed.least.view(units, -1, n // PIECE, PIECE).permute(1, 0, 2, 3),
    }
    boxes = _boxes(form, carried)
    told = [TensorDescriptor.from_tensor(views[key], box, _layout(bits, box[-1])) for key, (_, bits, box) in boxes.items()]
    rounds, blocks = triton.cdiv(units, carried.deep), n // carried.outputs
    segments, per = cut(rounds, blocks, 1, carried.fill)
    scratch = torch.empty(segments if segments > 1 else 0, m, n, device=x.device)
    measures = (m, out.stride(0), form.outputs, n, rounds, per, *end.operands(form.inputs, blocks, x.device))
    operands = (*told, scratch if bias is None else bias, out, scratch, packed.arrived)
    variant(form, bias is not None, carried, end.ending(out)).launch((blocks, 1, segments), *operands, *measures)
