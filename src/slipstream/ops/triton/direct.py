"""Products of few rows with bf16 weights as they lie, [n, k] row by row: from memory straight into registers of the tensor cores.

Owns the kernel (Gluon) and its tiles. Nothing is packed, and no weight goes through shared memory: what a thread reads in 16 bytes, 8
neighbouring inputs of one output, is its part of two products of 16 outputs x 16 inputs (mma.sync), if these take the inputs in
another order. x is read in the same order, so every product has its pair. Weights of the first stages are read before the kernel's
turn (chain.py), so that memory does not stand still while the one before it ends: that is what cuBLAS cannot do.

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

# $2 bytes from $1 on, none if it is not positive, into L2.
PREFETCH = gl.constexpr("{ .reg .pred some; setp.gt.s32 some, $2, 0; @some cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }")
UNIT = 128  # inputs that a layer has a multiple of
LEAST = 16  # outputs of a program, at least


@dataclass(frozen=True, slots=True)
class Direct:
    """A program's part of the result and its warps.

    Attributes:
        rows: of x, at most.
        deep: warps that share the inputs of a segment.
        each: outputs of a program, 16, 32 or 64.
        step: inputs of a stage of a warp, 32, 64 or 128.
        ahead: stages that are read before the first is multiplied.
        early: inputs per output, behind those, that are brought into L2 before the kernel's turn.
        fill: a layer has as many segments as such a number of warps takes.
    """

    rows: int
    deep: int = 8
    each: int = 16
    step: int = 64
    ahead: int = 2
    early: int = 0
    fill: int = FILL


@gluon.constexpr_function
def lying(deep, lines, step):
    """Layout of [deep, outputs or rows, inputs]: eight neighbouring inputs to a thread, 16 bytes, four threads to a line."""
    reg = [[0, 0, 1], [0, 0, 2], [0, 0, 4]]
    reg += [[0, 0, 32 << bit] for bit in range((step // 32).bit_length() - 1)]
    reg += [[0, 8 << bit, 0] for bit in range((lines // 8).bit_length() - 1)]
    lane = [[0, 0, 8], [0, 0, 16], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    return gl.DistributedLinearLayout(reg, lane, [[1 << bit, 0, 0] for bit in range(deep.bit_length() - 1)], [], [deep, lines, step])


@gluon.jit
def _fetch(weight, first, stage, end, n, k, deep: gl.constexpr, each: gl.constexpr, step: gl.constexpr):
    """The weights of a stage [deep, outputs, inputs] from output `first` on; past the segment's `end` 0, past the last output any."""
    layout: gl.constexpr = lying(deep, each, step)
    at, inside = place(stage, end, step, layout)
    offset = gl.minimum(first + along(each, 1, layout), n - 1) * k + at + along(step, 2, layout)
    return gl.load(weight + offset, mask=gl.broadcast(inside, offset)[0], other=0.0, cache_modifier=".cg")  # read once


@gluon.jit
def _bring_near(weight, first, at, end, n, k, deep: gl.constexpr, each: gl.constexpr, early: gl.constexpr):
    """Lets L2 fetch `early` inputs from `at` on, those before `end`, of a program's outputs; each thread asks for a piece of one."""
    piece: gl.constexpr = each * early // (32 * deep)
    index = gl.arange(0, 32 * deep, layout=gl.BlockedLayout([1], [32], [deep], [0]))
    begin = at + index // each * piece
    line = weight + (gl.minimum(first + index % each, n - 1) * k + begin)
    gl.inline_asm_elementwise(PREFETCH, "=r,l,r", [line, gl.minimum(end - begin, piece) * 2], gl.int32, False, 1)


@gluon.jit
def _in_turn(block):
    """[deep, lines, inputs] with the inputs of each 32 as products take them: a thread's eight are four of one, then four of another."""
    deep: gl.constexpr = block.shape[0]
    lines: gl.constexpr = block.shape[1]
    step: gl.constexpr = block.shape[2]
    split = block.reshape([deep, lines, step // 32, 4, 2, 2, 2])
    return split.permute([0, 1, 2, 4, 5, 3, 6]).reshape([deep, lines, step])


@gluon.jit
def _stage(total, taken, x, stage, end, m, k, step: gl.constexpr):
    """`total` [deep, outputs, rows] and what the inputs of a stage add to it; `taken`: its weights."""
    mma: gl.constexpr = total.type.layout
    deep: gl.constexpr = total.shape[0]
    rows: gl.constexpr = total.shape[2]
    layout: gl.constexpr = lying(deep, rows, step)
    at, inside = place(stage, end, step, layout)
    row = gl.minimum(along(rows, 1, layout), m - 1)  # there are no more: any will do, and so past the end, where weights are 0
    part = gl.load(x + row * k + gl.minimum(at, k - step) + along(step, 2, layout))
    left = gl.convert_layout(_in_turn(taken), gl.DotOperandLayout(0, mma, 2), assert_trivial=True)
    right = gl.convert_layout(_in_turn(part).permute([0, 2, 1]), gl.DotOperandLayout(1, mma, 2), assert_trivial=True)
    return mma_v2(left, right, total)


@gluon.jit(do_not_specialize=["m", "stride", "n", "units_k", "per"], do_not_specialize_on_alignment=["bias", "out"])
def _product(
    x, weight, bias, out, scratch, arrived, m, stride, n, units_k, per,
    has_bias: gl.constexpr, rows: gl.constexpr, deep: gl.constexpr, each: gl.constexpr, step: gl.constexpr, ahead: gl.constexpr,
    early: gl.constexpr,
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
        waiting = waiting + (_fetch(weight, first, stage + number * deep, end, n, k, deep, each, step),)
    if early:
        _bring_near(weight, first, (stage + ahead * deep) * step, end, n, k, deep, each, early)
    await_turn()
    for now in range(stage, last, deep * ahead):
        coming = ()
        for number in gl.static_range(ahead):
            total = _stage(total, waiting[number], x, now + number * deep, end, m, k, step)
            coming = coming + (_fetch(weight, first, now + (ahead + number) * deep, end, n, k, deep, each, step),)
        waiting = coming
    whole = gl.sum(total, axis=0)  # [each, rows]
    settle(whole, bias, out, scratch, arrived, m, stride, n, gl.num_programs(0) * each, first, 1, 1, has_bias)


@cache
def variant(has_bias: bool, direct: Direct) -> Variant:
    """The form for layers of all measures."""
    constants = {
        "has_bias": has_bias, "rows": direct.rows, "deep": direct.deep, "each": direct.each, "step": direct.step, "ahead": direct.ahead,
        "early": direct.early,
    }  # fmt: skip
    return Variant(_product, constants, ("*bf16", "*bf16", "*fp32", "*fp32", "*fp32", "*i32") + ("i32",) * 5, direct.deep)


def serves(n: int, k: int) -> bool:
    """Whether a layer [n, k] can be multiplied here: places in it are 32-bit numbers."""
    return k % UNIT == 0 and n * k < 1 << 31


def counters(n: int, device: torch.device) -> Tensor:
    """What a layer of n outputs counts the segments in that are done: 0 but while a product runs."""
    return torch.zeros(triton.cdiv(n, LEAST), dtype=torch.int32, device=device)


def product(x: Tensor, weight: Tensor, arrived: Tensor, bias: Tensor | None, out: Tensor, direct: Direct) -> None:
    """out = x @ weight.T + bias, of one layer one at a time: its programs count each other.

    Args:
        x: bf16 [m, k], m up to direct.rows; weight: bf16 [n, k], which `serves`.
        arrived: the layer's `counters`.
        bias: fp32 [n], or None.
        out: fp32 [m, n], whose rows may lie apart.

    Raises:
        InputError: a tensor does not fit.
    """
    (m, k), n = x.shape, weight.shape[0]
    fits("product", "x", x, (m, k), torch.bfloat16)
    fits("product", "weight", weight, (n, k), torch.bfloat16)
    if m > direct.rows or not serves(n, k):
        raise InputError(f"product: takes up to {direct.rows} rows and k a multiple of {UNIT}; found {m} rows, n={n}, k={k}")
    if bias is not None:
        row_facts("product", "bias", bias, n, torch.float32)
    tiles = triton.cdiv(n, direct.each)
    segments, per = cut(k // direct.step, tiles, direct.deep, direct.fill)
    scratch = torch.empty(segments, m, tiles * direct.each, device=x.device) if segments > 1 else out
    operands = (x, weight, out if bias is None else bias, out, scratch, arrived)
    grid = (tiles, min(m, 1), segments)
    variant(bias is not None, direct).launch(grid, *operands, m, out.stride(0), n, k // UNIT, per)
