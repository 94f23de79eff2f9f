"""Products of few rows with weights as they lie, [n, k] row by row, in bf16 or e4m3: from memory straight into tensor cores' registers.

Owns the kernel (Gluon) and its tiles. Nothing is packed, and no weight goes through shared memory: what a thread reads in 16 bytes, 8
or 16 neighbouring inputs of one output, is its part of two or four products of 16 outputs x 16 inputs (mma.sync), if these take the
inputs in another order. x is read in the same order, so every product has its pair. Weights of the first stages are read before the
kernel's turn (chain.py), so that memory does not stand still while the one before it ends: that is what cuBLAS cannot do.
Codes in e4m3 are widened to bf16, which is exact, and what they are multiplied with too; sums are scaled at the end.

Segments, warps that share the inputs of one and the last program that adds them in ascending order are those of streamed.py.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.streamed import FILL, along, cut, place, settle
from slipstream.ops.types import CODES_ROOM, SCALE_BYTES

# Four codes as bf16, those of the even bytes first: sign, exponent and fraction at their places are 2^-120 times the number, also where
# that is subnormal.
WIDEN = gl.constexpr(
    "{ .reg .b32 t, u, v; mov.b32 v, 0x7B807B80; shl.b32 t, $4, 4; and.b32 t, t, 0x07F007F0; shl.b32 u, $4, 8; "
    "lop3.b32 t, u, 0x80008000, t, 0xEA; mul.bf16x2 t, t, v; mov.b32 {$0, $1}, t; "
    "shr.b32 t, $4, 4; and.b32 t, t, 0x07F007F0; lop3.b32 t, $4, 0x80008000, t, 0xEA; mul.bf16x2 t, t, v; mov.b32 {$2, $3}, t; }"
)
UNIT = 128  # inputs that a layer has a multiple of
LEAST = 16  # outputs of a program, at least


@dataclass(frozen=True, slots=True)
class Direct:
    """A program's part of the result and its warps.

    Attributes:
        rows: of x, at most.
        deep: warps that share the inputs of a segment.
        each: outputs of a program, 16, 32 or 64.
        step: inputs of a stage of a warp: 32, 64 or 128, of e4m3 weights 64 or 128.
        ahead: stages that are read before the first is multiplied.
        fill: a layer has as many segments as such a number of warps takes.
    """

    rows: int
    deep: int = 8
    each: int = 16
    step: int = 64
    ahead: int = 2
    fill: int = FILL


@gluon.constexpr_function
def lying(deep, lines, width, own):
    """Layout of [deep, outputs or rows, numbers]: `own` neighbours to a thread, in 16 or 32 bytes, four threads to a line."""
    reg = [[0, 0, 1 << bit] for bit in range(own.bit_length() - 1)]
    reg += [[0, 0, (4 * own) << bit] for bit in range((width // (4 * own)).bit_length() - 1)]
    reg += [[0, 8 << bit, 0] for bit in range((lines // 8).bit_length() - 1)]
    lane = [[0, 0, own], [0, 0, 2 * own], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    return gl.DistributedLinearLayout(reg, lane, [[1 << bit, 0, 0] for bit in range(deep.bit_length() - 1)], [], [deep, lines, width])


@gluon.jit
def _fetch(
    weight, first, stage, end, n, k, deep: gl.constexpr, each: gl.constexpr, step: gl.constexpr, narrow: gl.constexpr
):  # fmt: skip
    """A stage's weights [deep, outputs, inputs], four codes in a number, from output `first` on; past the segment's `end` 0, past the
    last output any."""
    part: gl.constexpr = 4 if narrow else 1  # inputs in a number
    layout: gl.constexpr = lying(deep, each, step // part, 4 if narrow else 8)
    at, inside = place(stage, end, step, layout)
    line = gl.minimum(first + along(each, 1, layout), n - 1)
    offset = line * (k // part) + at // part + along(step // part, 2, layout)
    numbers = weight.to(gl.pointer_type(gl.int32), bitcast=True) if narrow else weight
    return gl.load(numbers + offset, mask=gl.broadcast(inside, offset)[0], other=0, cache_modifier=".cg")  # read once


@gluon.jit
def _widened(words):
    """Codes, four to a number int32 [deep, lines, numbers], as bf16 [deep, lines, inputs]."""
    a, c, b, d = gl.inline_asm_elementwise(
        WIDEN, "=h,=h,=h,=h,r", [words], (gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16), True, 1
    )  # fmt: skip
    return gl.join(gl.join(a, c), gl.join(b, d)).reshape([words.shape[0], words.shape[1], words.shape[2] * 4])


@gluon.jit
def _in_turn(block, narrow: gl.constexpr):
    """[deep, lines, inputs] as products take them, which share a thread's neighbours: of 8, 2 take four each; of 16, 4."""
    deep: gl.constexpr = block.shape[0]
    lines: gl.constexpr = block.shape[1]
    step: gl.constexpr = block.shape[2]
    if narrow:  # even bytes are the first two inputs of a thread's four, odd ones the others
        found = block.reshape([deep, lines, step // 64, 4, 4, 2, 2]).permute([0, 1, 2, 4, 6, 3, 5])
    else:
        found = block.reshape([deep, lines, step // 32, 4, 2, 2, 2]).permute([0, 1, 2, 4, 5, 3, 6])
    return found.reshape([deep, lines, step])


@gluon.jit
def _stage(total, taken, x, stage, end, m, k, step: gl.constexpr, narrow: gl.constexpr, room: gl.constexpr):
    """`total` [deep, outputs, rows] and what the inputs of a stage add to it; `taken`: its weights; `room`: bytes behind codes of x."""
    mma: gl.constexpr = total.type.layout
    deep: gl.constexpr = total.shape[0]
    rows: gl.constexpr = total.shape[2]
    part: gl.constexpr = 4 if room else 1
    layout: gl.constexpr = lying(deep, rows, step // part, 4 if room else 16 if narrow else 8)
    at, inside = place(stage, end, step, layout)
    row = gl.minimum(along(rows, 1, layout), m - 1)  # there are no more: any will do, and so past the end, where weights are 0
    numbers = x.to(gl.pointer_type(gl.int32), bitcast=True) if room else x
    found = gl.load(numbers + row * ((k + room) // part) + gl.minimum(at, k - step) // part + along(step // part, 2, layout))
    if room:
        found = _widened(found)
    if narrow:
        taken = _widened(taken)
    left = gl.convert_layout(_in_turn(taken, narrow), gl.DotOperandLayout(0, mma, 2), assert_trivial=True)
    right = gl.convert_layout(_in_turn(found, narrow).permute([0, 2, 1]), gl.DotOperandLayout(1, mma, 2), assert_trivial=True)
    return mma_v2(left, right, total)


@gluon.jit(do_not_specialize=["m", "stride", "n", "units_k", "per"], do_not_specialize_on_alignment=["x_scale", "bias", "out"])
def _product(
    x, weight, x_scale, scale, bias, out, scratch, arrived, m, stride, n, units_k, per,
    narrow: gl.constexpr, room: gl.constexpr, has_bias: gl.constexpr, rows: gl.constexpr, deep: gl.constexpr, each: gl.constexpr,
    step: gl.constexpr, ahead: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [deep, 1, 1], [1, 16, 8])
    k = units_k * 128
    first = gl.program_id(0) * each
    stage = gl.program_id(2) * per
    last = gl.minimum(stage + per, k // step)
    end = last * step
    total = gl.zeros([deep, each, rows], gl.float32, mma)
    waiting = ()
    for number in gl.static_range(ahead):
        waiting = waiting + (_fetch(weight, first, stage + number * deep, end, n, k, deep, each, step, narrow),)
    if narrow:
        column = first + gl.arange(0, each, layout=gl.SliceLayout(1, gl.SliceLayout(0, mma)))
        factor = gl.expand_dims(gl.load(scale + gl.minimum(column, n - 1)), 1)
    await_turn()
    for now in range(stage, last, deep * ahead):
        coming = ()
        for number in gl.static_range(ahead):
            total = _stage(total, waiting[number], x, now + number * deep, end, m, k, step, narrow, room)
            coming = coming + (_fetch(weight, first, now + (ahead + number) * deep, end, n, k, deep, each, step, narrow),)
        waiting = coming
    whole = gl.sum(total, axis=0)  # [each, rows]
    if narrow:
        whole = whole * factor
    if room:
        row = gl.arange(0, rows, layout=gl.SliceLayout(0, gl.SliceLayout(0, mma)))
        whole = whole * gl.expand_dims(gl.load(x_scale + gl.minimum(row, m - 1) * ((k + room) // 4)), 0)
    settle(whole, bias, out, scratch, arrived, m, stride, n, gl.num_programs(0) * each, first, 1, 1, has_bias)


@cache
def variant(has_bias: bool, direct: Direct, narrow: bool = False, codes: bool = False) -> Variant:
    """The form for layers of all measures; `narrow`: of e4m3 weights, `codes`: x comes as codes, too."""
    constants = {
        "narrow": narrow, "room": CODES_ROOM if codes else 0, "has_bias": has_bias, "rows": direct.rows, "deep": direct.deep,
        "each": direct.each, "step": direct.step, "ahead": direct.ahead,
    }  # fmt: skip
    types = ("*fp8e4nv" if codes else "*bf16", "*fp8e4nv" if narrow else "*bf16", *["*fp32"] * 5, "*i32", *["i32"] * 5)
    return Variant(_product, constants, types, direct.deep)


def serves(n: int, k: int) -> bool:
    """Whether a layer [n, k] can be multiplied here: places in it are 32-bit numbers."""
    return k % UNIT == 0 and n * k < 1 << 31


def counters(n: int, device: torch.device) -> Tensor:
    """What a layer of n outputs counts the segments in that are done: 0 but while a product runs."""
    return torch.zeros(triton.cdiv(n, LEAST), dtype=torch.int32, device=device)


def product(
    x: Tensor, weight: Tensor, arrived: Tensor, bias: Tensor | None, out: Tensor, direct: Direct, scale: Tensor | None = None
) -> None:  # fmt: skip
    """out = x @ weight.T + bias, of one layer one at a time: its programs count each other.

    Args:
        x: bf16 [m, k], m up to direct.rows; with e4m3 weights also e4m3 [m, k + CODES_ROOM], codes with their scale behind them.
        weight: bf16 or e4m3 [n, k], which `serves`.
        arrived: the layer's `counters`.
        bias: fp32 [n], or None.
        out: fp32 [m, n], whose rows may lie apart.
        scale: fp32 [n] of e4m3 weights.

    Raises:
        InputError: a tensor does not fit.
    """
    (n, k), m, codes = weight.shape, x.shape[0], x.dtype is torch.float8_e4m3fn
    fits("product", "x", x, (m, k + (CODES_ROOM if codes else 0)), torch.float8_e4m3fn if codes else torch.bfloat16)
    fits("product", "weight", weight, (n, k), torch.bfloat16 if scale is None else torch.float8_e4m3fn)
    if m > direct.rows or not serves(n, k) or (codes and scale is None):
        raise InputError(f"product: takes up to {direct.rows} rows and k a multiple of {UNIT}; found {m} rows, n={n}, k={k}")
    for name, numbers in (("bias", bias), ("scale", scale)):
        if numbers is not None:
            row_facts("product", name, numbers, n, torch.float32)
    tiles = triton.cdiv(n, direct.each)
    segments, per = cut(k // direct.step, tiles, direct.deep, direct.fill)
    scratch = torch.empty(segments, m, tiles * direct.each, device=x.device) if segments > 1 else out
    x_scale = x[:, k : k + SCALE_BYTES].view(torch.float32) if codes else out
    operands = (x, weight, x_scale, out if scale is None else scale, out if bias is None else bias, out, scratch, arrived)
    kernel = variant(bias is not None, direct, scale is not None, codes)
    kernel.launch((tiles, min(m, 1), segments), *operands, m, out.stride(0), n, k // UNIT, per)
