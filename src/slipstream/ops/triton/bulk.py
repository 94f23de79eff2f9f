"""Products of few rows with bf16 or e4m3 weights by bulk copies: tiles through shared memory to groups of warps (wgmma).

Owns the kernel (Gluon) and its tiles. The copy engine brings tiles of 128 bytes per output of the weight, and of x, into a ring; four
warps multiply one after the other, and a tile that is done makes room for the next. The ring is filled with weights before the
kernel's turn (chain.py), so that memory does not stand still while the kernel before ends: that is what cuBLAS cannot do. Several
programs share a multiprocessor, so that one reads while another begins or ends.
In e4m3 a tile's 128 inputs are summed from zero and added in fp32, as in fp8.py, and sums are scaled at the end.

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
from slipstream.ops.triton.ends import norm_factor
from slipstream.ops.triton.fused import AS_IT_IS, OPERANDS, PLAIN, End, Ending
from slipstream.ops.triton.launch import Variant, fits, row_facts
from slipstream.ops.triton.streamed import cut, settle
from slipstream.ops.types import CODES_ROOM, SCALE_BYTES

LINE = 128  # bytes of a tile per output or row
WARPS = 4
LEAST = 64  # outputs of a program, at least


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

    @property
    def up_to(self) -> int:
        """Rows that one product takes; see tuned/."""
        return self.rows


@gluon.jit(
    do_not_specialize=["m", "stride", "n", "tiles", "per", "x_stride", "pieces"],
    do_not_specialize_on_alignment=["x_scale", "bias", "out"],
)
def _product(
    x, weight, x_scale, scale, bias, out, scratch, arrived, m, stride, n, tiles, per, x_stride,
    squares, norm_weight, scaled, pieces, share, eps,
    narrow: gl.constexpr, has_bias: gl.constexpr, rows: gl.constexpr, outputs: gl.constexpr, ring: gl.constexpr,
    gate: gl.constexpr, norm: gl.constexpr,
):  # fmt: skip
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, rows, 32 if narrow else 16])
    kind: gl.constexpr = gl.float8e4nv if narrow else gl.bfloat16
    step: gl.constexpr = 128 if narrow else 64  # inputs of a tile
    size: gl.constexpr = (outputs + rows) * 128  # bytes
    left = gl.allocate_shared_memory(kind, [ring, outputs, step], weight.layout)
    right = gl.allocate_shared_memory(kind, [ring, rows, step], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [ring, 1], mbarrier.MBarrierLayout())
    first = gl.program_id(0) * outputs
    begin = gl.program_id(2) * per
    count = gl.minimum(per, tiles - begin)
    for slot in gl.static_range(ring):
        mbarrier.init(full.index(slot), count=1)
    for slot in gl.static_range(ring):  # past the layer's outputs and inputs the copy engine writes zeros
        mbarrier.expect(full.index(slot), size, pred=slot < count)
        tma.async_copy_global_to_shared(weight, [first, (begin + slot) * step], full.index(slot), left.index(slot), pred=slot < count)
    if narrow:
        column = first + gl.arange(0, outputs, layout=gl.SliceLayout(1, mma))
        factor = gl.expand_dims(gl.load(scale + gl.minimum(column, n - 1)), 1)
    await_turn()
    for slot in gl.static_range(ring):
        tma.async_copy_global_to_shared(x, [0, (begin + slot) * step], full.index(slot), right.index(slot), pred=slot < count)
    normed = (norm_factor(squares, 0, m, pieces, share, eps, outputs, rows, mma, norm), squares, norm_weight, scaled)
    total = gl.zeros([outputs, rows], gl.float32, mma)
    for number in range(count):
        own = number % ring
        mbarrier.wait(full.index(own), number // ring % 2)
        if narrow:
            total += warpgroup_mma(left.index(own), right.index(own).permute((1, 0)), gl.zeros([outputs, rows], gl.float32, mma))
        else:
            total = warpgroup_mma(left.index(own), right.index(own).permute((1, 0)), total)
        gl.thread_barrier()  # all warps are done with the tile
        coming = number + ring < count
        at = (begin + number + ring) * step
        mbarrier.expect(full.index(own), size, pred=coming)
        tma.async_copy_global_to_shared(weight, [first, at], full.index(own), left.index(own), pred=coming)
        tma.async_copy_global_to_shared(x, [0, at], full.index(own), right.index(own), pred=coming)
    if narrow:
        row = gl.arange(0, rows, layout=gl.SliceLayout(0, mma))
        total = total * (factor * gl.expand_dims(gl.load(x_scale + gl.minimum(row, m - 1) * x_stride), 0))
    across = gl.num_programs(0) * outputs
    settle(total, normed, bias, out, scratch, arrived, m, stride, n, across, first, 1, 1, has_bias, gate, norm)


def _layout(bits: int) -> gl.NVMMASharedLayout:
    """Rows of 128 bytes, as bulk copies write and wgmma reads them."""
    return gl.NVMMASharedLayout(swizzle_byte_width=LINE, element_bitwidth=bits, rank=2)


@cache
def variant(has_bias: bool, bulk: Bulk, narrow: bool = False, ending: Ending = AS_IT_IS) -> Variant:
    """The form for layers of all measures, with such an end; `narrow`: of e4m3 weights."""
    constants = {"narrow": narrow, "has_bias": has_bias, "rows": bulk.rows, "outputs": bulk.outputs, "ring": bulk.ring, **ending.constants}
    numbers, bits = ("fp8e4nv", 8) if narrow else ("bf16", 16)
    described = tuple(f"tensordesc<{numbers}[{lines}, {LINE * 8 // bits}],{_layout(bits)!r}>" for lines in (bulk.rows, bulk.outputs))
    return Variant(_product, constants, (*described, *["*fp32"] * 3, ending.out, "*fp32", "*i32", *["i32"] * 6, *OPERANDS), WARPS)


def serves(n: int, k: int) -> bool:
    """Whether a layer [n, k] can be multiplied here: rows of the weight begin at multiples of 16 bytes."""
    return k % 16 == 0


def counters(n: int, device: torch.device) -> Tensor:
    """What a layer of n outputs counts the segments in that are done: 0 but while a product runs."""
    return torch.zeros(triton.cdiv(n, LEAST), dtype=torch.int32, device=device)


def product(
    x: Tensor, weight: Tensor, arrived: Tensor, bias: Tensor | None, out: Tensor, bulk: Bulk, scale: Tensor | None = None, end: End = PLAIN
) -> None:  # fmt: skip
    """out = x @ weight.T + bias, of one layer one at a time: its programs count each other.

    Args:
        x: bf16 [m, k], m up to bulk.rows; with e4m3 weights e4m3 [m, k + CODES_ROOM], codes with their scale behind them.
        weight: bf16 or e4m3 [n, k], which `serves`.
        arrived: the layer's `counters`.
        bias: fp32 [n], or None.
        out: fp32 [m, n], whose rows may lie apart; gated results may be bf16.
        scale: fp32 [n] of e4m3 weights.
        end: what is done besides, see streamed.product.

    Raises:
        InputError: a tensor does not fit.
    """
    (n, k), m, narrow = weight.shape, x.shape[0], scale is not None
    kind = torch.float8_e4m3fn if narrow else torch.bfloat16
    fits("product", "x", x, (m, k + (CODES_ROOM if narrow else 0)), kind)
    fits("product", "weight", weight, (n, k), kind)
    if m > bulk.rows or not serves(n, k):
        raise InputError(f"product: takes up to {bulk.rows} rows and k a multiple of 16; found {m} rows, k={k}")
    for name, numbers in (("bias", bias), ("scale", scale)):
        if numbers is not None:
            row_facts("product", name, numbers, n, torch.float32)
    if not m:
        return
    step = LINE // weight.element_size()
    tiles, blocks = triton.cdiv(k, step), triton.cdiv(n, bulk.outputs)
    segments, per = cut(tiles, blocks, 1, bulk.fill)
    scratch = torch.empty(segments if segments > 1 else 0, m, blocks * bulk.outputs, device=x.device)
    layout = _layout(8 if narrow else 16)
    left = TensorDescriptor.from_tensor(weight, [bulk.outputs, step], layout)
    right = TensorDescriptor.from_tensor(x[:, :k], [bulk.rows, step], layout)
    x_scale = x[:, k : k + SCALE_BYTES].view(torch.float32) if narrow else scratch
    operands = (right, left, x_scale, scratch if scale is None else scale, scratch if bias is None else bias, out, scratch, arrived)
    measures = (m, out.stride(0), n, tiles, per, x_scale.stride(0), *end.operands(k, blocks, x.device))
    variant(bias is not None, bulk, narrow, end.ending(out)).launch((blocks, 1, segments), *operands, *measures)
