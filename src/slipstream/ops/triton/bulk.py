"""Products of few rows with bf16 weights by bulk copies: tiles of the weight through shared memory to groups of warps (wgmma).

Owns the kernel (Gluon) and its tiles. The copy engine brings tiles of 64 inputs of the weight and of x into a ring; four warps multiply
one after the other, and a tile that is done makes room for the next. The ring is filled with weights before the kernel's turn
(chain.py), so that memory does not stand still while the kernel before ends: that is what cuBLAS cannot do. Several programs share a
multiprocessor, so that one reads while another begins or ends.

K is cut into segments, a program each; the last program to arrive adds them, in ascending order (streamed.py).
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.streamed import cut, settle

STEP = 64  # inputs of a tile: 128 bytes
WARPS = 4


@dataclass(frozen=True, slots=True)
class Bulk:
    """A program's part of the result.

    Attributes:
        rows: of x, at most: 8, 16, 32 or 64.
        outputs: of a program, 64 or 128.
        ring: tiles that are on their way.
        fill: a layer has as many segments as such a number of programs takes.
    """

    rows: int
    outputs: int = 64
    ring: int = 6
    fill: int = 396


@gluon.jit(do_not_specialize=["m", "stride", "n", "tiles", "per"], do_not_specialize_on_alignment=["bias", "out"])
def _product(
    x, weight, bias, out, scratch, arrived, m, stride, n, tiles, per,
    has_bias: gl.constexpr, rows: gl.constexpr, outputs: gl.constexpr, ring: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, rows, 16])
    size: gl.constexpr = (outputs + rows) * 128  # bytes
    left = gl.allocate_shared_memory(gl.bfloat16, [ring, outputs, 64], weight.layout)
    right = gl.allocate_shared_memory(gl.bfloat16, [ring, rows, 64], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [ring, 1], mbarrier.MBarrierLayout())
    first = gl.program_id(0) * outputs
    begin = gl.program_id(2) * per
    count = gl.minimum(per, tiles - begin)
    for slot in gl.static_range(ring):
        mbarrier.init(full.index(slot), count=1)
    for slot in gl.static_range(ring):  # past the layer's outputs and inputs the copy engine writes zeros
        mbarrier.expect(full.index(slot), size, pred=slot < count)
        tma.async_copy_global_to_shared(weight, [first, (begin + slot) * 64], full.index(slot), left.index(slot), pred=slot < count)
    await_turn()
    for slot in gl.static_range(ring):
        tma.async_copy_global_to_shared(x, [0, (begin + slot) * 64], full.index(slot), right.index(slot), pred=slot < count)
    total = gl.zeros([outputs, rows], gl.float32, mma)
    for number in range(count):
        own = number % ring
        mbarrier.wait(full.index(own), number // ring % 2)
        total = warpgroup_mma(left.index(own), right.index(own).permute((1, 0)), total)
        gl.thread_barrier()  # all warps are done with the tile
        coming = number + ring < count
        at = (begin + number + ring) * 64
        mbarrier.expect(full.index(own), size, pred=coming)
        tma.async_copy_global_to_shared(weight, [first, at], full.index(own), left.index(own), pred=coming)
        tma.async_copy_global_to_shared(x, [0, at], full.index(own), right.index(own), pred=coming)
    settle(total, bias, out, scratch, arrived, m, stride, n, gl.num_programs(0) * outputs, first, 1, 1, has_bias)


def _layout() -> gl.NVMMASharedLayout:
    """Rows of 128 bytes, as bulk copies write and wgmma reads them."""
    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@cache
def variant(has_bias: bool, bulk: Bulk) -> Variant:
    """The form for layers of all measures."""
    constants = {"has_bias": has_bias, "rows": bulk.rows, "outputs": bulk.outputs, "ring": bulk.ring}
    described = tuple(f"tensordesc<bf16[{lines}, {STEP}],{_layout()!r}>" for lines in (bulk.rows, bulk.outputs))
    return Variant(_product, constants, (*described, "*fp32", "*fp32", "*fp32", "*i32", *["i32"] * 5), WARPS)


def serves(n: int, k: int) -> bool:
    """Whether a layer [n, k] can be multiplied here: rows of the weight begin at multiples of 16 bytes."""
    return k % 8 == 0


def product(x: Tensor, weight: Tensor, arrived: Tensor, bias: Tensor | None, out: Tensor, bulk: Bulk) -> None:
    """out = x @ weight.T + bias; arguments as in direct.product."""
    (m, k), n = x.shape, weight.shape[0]
    fits("product", "x", x, (m, k), torch.bfloat16)
    fits("product", "weight", weight, (n, k), torch.bfloat16)
    if m > bulk.rows or not serves(n, k):
        raise InputError(f"product: takes up to {bulk.rows} rows and k a multiple of 8; found {m} rows, k={k}")
    if bias is not None:
        row_facts("product", "bias", bias, n, torch.float32)
    if not m:
        return
    steps, blocks = triton.cdiv(k, STEP), triton.cdiv(n, bulk.outputs)
    segments, per = cut(steps, blocks, 1, bulk.fill)
    scratch = torch.empty(segments, m, blocks * bulk.outputs, device=x.device) if segments > 1 else out
    described = (TensorDescriptor.from_tensor(part, [lines, STEP], _layout()) for part, lines in ((x, bulk.rows), (weight, bulk.outputs)))
    operands = (*described, out if bias is None else bias, out, scratch, arrived)
    variant(bias is not None, bulk).launch((blocks, 1, segments), *operands, m, out.stride(0), n, steps, per)
