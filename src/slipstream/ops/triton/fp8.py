"""Products of e4m3 numbers with scales: activations quantised per row or per row and 128 inputs, weights per output or per 128 x 128.

Owns the kernels, and whose product serves how many rows; in fast settings by a table that is data (tuned/).

Tensor cores sum e4m3 products with few bits, so 128 inputs are summed from zero and added in fp32, whatever the scales: that is
`total += dot`, or `total = fma(dot, scale of the row's group * scale of the weight's block, total)`. K is cut into segments and
these are added as in gemm.py, so a row has the same bits in every company. For many rows torch's product is faster: cuBLAS sums the
codes as they are, and a kernel scales the sums. It may choose by the number of rows, so it is for fast settings only. So is
bulk.py, for few rows of layers with a scale per output.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton import bulk, gemm
from slipstream.ops.triton.bulk import Bulk
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import e4m3
from slipstream.ops.triton.fused import End
from slipstream.ops.triton.gemm import Tile
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts, type_name
from slipstream.ops.triton.tuned import Ranges
from slipstream.ops.types import CODES_ROOM, SCALE_BYTES

GROUP = 128  # inputs that are summed at a time; outputs and inputs of a block that shares a scale
BY_ROWS = (  # (up to how many rows, tile): of as many outputs and inputs, so that no bits depend on it
    (64, Tile(64, 128, GROUP, 8, 4)),
    (1 << 31, Tile(128, 128, GROUP, 8, 3)),
)
E4M3 = torch.float8_e4m3fn
TILES, TORCH = "tiles", "torch"
CODES = Ranges("codes", ({"bulk": Bulk},), (TILES, TORCH))  # of layers with a scale per output, by dense_forms and decode_gemm
UNIT = 16  # outputs and inputs that torch's product takes multiples of
BLOCK = 1024  # numbers of a row per program that scales sums


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer as the kernels read it.

    Attributes:
        codes: e4m3 [n, k].
        scale: fp32 [n, 1]; or by blocks [n / 128, k / 128] rounded up, or [n, k / 128] where 128 neighbours do not share theirs.
        one: the scale that torch's product is given. []
        arrived: counters of bulk.py.
    """

    codes: Tensor
    scale: Tensor
    one: Tensor
    arrived: Tensor


def pack(stored: Mapping[str, Tensor]) -> Packed:
    """Packs the stored tensors of a layer (ops/types.py, LINEAR_FORMATS: "fp8" or "fp8_block")."""
    codes, scale = stored["weight"].contiguous(), stored["scale"]
    _whole_groups("pack", codes.shape[1])
    if scale.dim() == 1:
        scale = scale[:, None]
    elif torch.equal(scale[::GROUP].repeat_interleave(GROUP, 0)[: len(scale)], scale):
        scale = scale[::GROUP]
    return Packed(codes, scale.contiguous(), torch.ones((), device=codes.device), bulk.counters(len(codes), codes.device))


def few(rows: int, packed: Packed) -> Bulk | None:
    """The form that serves so many rows of a layer in fast settings, if there is one and the layer has a scale per output."""
    if packed.scale.shape[1] > 1 or len(packed.scale) < len(packed.codes) or not bulk.serves(*packed.codes.shape):
        return None
    chosen = fast(rows)
    return chosen if isinstance(chosen, Bulk) else None


def fast(rows: int) -> Bulk | str:
    """What the table of fast settings has for so many rows."""
    return next(way for most, way in CODES.now if rows <= most)


def product_of_few(x: Tensor, packed: Packed, bias: Tensor | None, out: Tensor, form: Bulk, gate: str = "") -> None:
    """out = x @ weight.T + bias, by `form`, gated or not; x [m, k] fp32 or bf16, or codes [m, k + CODES_ROOM]. See bulk.product."""
    bulk.product(x if x.dtype is E4M3 else coded(x), packed.codes, packed.arrived, bias, out, form, packed.scale[:, 0], End(gate))


@triton.jit
def _quantise(x, codes, scale, k: tl.constexpr, size: tl.constexpr, block: tl.constexpr, width: tl.constexpr, scales: tl.constexpr):
    await_turn()
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = group * size + tl.arange(0, block)
    inside = (tl.arange(0, block) < size) & (column < k)
    made, step = e4m3(tl.load(x + row * k + column, mask=inside, other=0.0).to(tl.float32))
    tl.store(codes + row * width + column, made, mask=inside)
    tl.store(scale + row * scales + group, step)


@triton.jit(do_not_specialize=["m"])
def _product(
    x, weight, x_scale, scale, out, m,
    n: tl.constexpr, k: tl.constexpr, width: tl.constexpr, scales: tl.constexpr, blocks: tl.constexpr, by_block: tl.constexpr,
    shared: tl.constexpr, segments: tl.constexpr, segment: tl.constexpr, parts: tl.constexpr, block_m: tl.constexpr,
    block_n: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)  # neighbours share a tile of the weight
    column = tl.program_id(1) * block_n + tl.arange(0, block_n)
    inner = tl.arange(0, group)
    here, there = row < m, column < n
    left = x + row.to(tl.int64)[:, None] * width + inner[None, :]
    right = weight + column.to(tl.int64)[None, :] * k + inner[:, None]
    total = tl.zeros((block_m, block_n), tl.float32)
    first = tl.program_id(2) if parts else 0
    for number in range(first, first + 1 if parts else segments):
        begin = number * segment
        part = tl.zeros((block_m, block_n), tl.float32)
        for at in range(begin, tl.minimum(begin + segment, k), group):
            a = tl.load(left + at, mask=here[:, None], other=0.0)
            b = tl.load(right + at, mask=there[None, :], other=0.0)
            dot = tl.dot(a, b)
            if by_block:
                rows = tl.load(x_scale + row * scales + at // group, mask=here, other=0.0)
                columns = tl.load(scale + column // shared * blocks + at // group, mask=there, other=0.0)
                part = tl.fma(dot, rows[:, None] * columns[None, :], part)
            else:
                part += dot
        if not by_block:
            rows = tl.load(x_scale + row * scales, mask=here, other=0.0)
            part = part * (rows[:, None] * tl.load(scale + column, mask=there, other=0.0)[None, :])
        total = part if number == first else total + part
    place = row.to(tl.int64)[:, None] * n + column[None, :]
    if parts:
        place += first.to(tl.int64) * m * n
    tl.store(out + place, total, mask=here[:, None] & there[None, :])


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["bias", "out"])
def _scaled(
    sums, x_scale, scale, bias, out, stride, n: tl.constexpr, scales: tl.constexpr, has_bias: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < n
    value = tl.load(sums + row * n + column, mask=inside)
    value *= tl.load(x_scale + row * scales) * tl.load(scale + column, mask=inside)
    if has_bias:
        value += tl.load(bias + column, mask=inside)
    tl.store(out + row * stride + column, value, mask=inside)


@cache
def quantise_variant(k: int, by_block: bool, x: str = "*bf16") -> Variant:
    """The form that quantises rows of `k` numbers of type `x`, each with a scale or with one per 128."""
    size, (width, scales) = GROUP if by_block else k, _places(k, by_block)
    block = power_of_two(size)
    constants = {"k": k, "size": size, "block": block, "width": width, "scales": scales}
    return Variant(_quantise, constants, (x, "*fp8e4nv", "*fp32"), min(16, max(1, block // 1024)))


@cache
def variant(n: int, k: int, by_block: bool, parts: bool, shared: int = GROUP, tile: Tile = BY_ROWS[0][1]) -> Variant:
    """The form of the product for a layer [n, k]; `parts`: segments as programs of their own; `shared`: outputs of a block's scale."""
    (segments, segment), (width, scales) = gemm.segments_of(n, k, tile), _places(k, by_block)
    constants = {
        "n": n, "k": k, "width": width, "scales": scales, "blocks": k // GROUP, "by_block": by_block, "shared": shared,
        "segments": segments, "segment": segment, "parts": parts, "block_m": tile.m, "block_n": tile.n, "group": GROUP,
    }  # fmt: skip
    types = ("*fp8e4nv", "*fp8e4nv", "*fp32", "*fp32", "*fp32", "i32")
    return Variant(_product, constants, types, tile.warps, tile.stages)


def tile_of(m: int, n: int, k: int) -> Tile:
    """The tile that serves m rows of a layer [n, k]; a small one where a program has all segments, whose sums would fill its registers."""
    tile = next(tile for most, tile in BY_ROWS if m <= most)
    several = gemm.segments_of(n, k, tile)[0] > 1
    return BY_ROWS[0][1] if several and not gemm.scratch_size(m, n, k, tile) else tile


@cache
def scaled_variant(n: int, k: int, has_bias: bool) -> Variant:
    """The form that scales the sums of torch's product."""
    constants = {"n": n, "scales": _places(k, False)[1], "has_bias": has_bias, "block": BLOCK}
    return Variant(_scaled, constants, ("*fp32", "*fp32", "*fp32", "*fp32", "*fp32", "i32"))


def quantise(x: Tensor, by_block: bool) -> tuple[Tensor, Tensor]:
    """x [m, k], bf16 or rounded to it, as e4m3 [m, k] and its scales fp32: [m, k / 128] by block, otherwise [m, 1], as `split` has them."""
    m, k = x.shape
    _whole_groups("quantise", k)
    if not by_block:
        return split(coded(x), k)
    codes, scale = torch.empty(m, k, dtype=E4M3, device=x.device), torch.empty(m, k // GROUP, device=x.device)
    _quantised(x, codes, scale)
    return codes, scale


def coded(x: Tensor) -> Tensor:
    """x [m, k] as e4m3 [m, k + CODES_ROOM], codes with the row's scale behind them, as norms write them too."""
    m, k = x.shape
    codes = torch.empty(m, k + CODES_ROOM, dtype=E4M3, device=x.device)
    _quantised(x, *split(codes, k))
    return codes


def _quantised(x: Tensor, codes: Tensor, scale: Tensor) -> None:
    """Writes codes [m, k] and scales [m, 1], which are behind them, or [m, k / 128]."""
    (m, k), scales = x.shape, scale.shape[1]
    kind = type_name("quantise", "x", fits("quantise", "x", x, (m, k), x.dtype))
    quantise_variant(k, scales > 1 or codes.stride(0) == k, kind).launch((m, scales), x, codes, scale)


def split(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Codes [m, k] and scales [m, 1] of rows e4m3 [m, k + CODES_ROOM], as norms write them too."""
    return x[:, :k], x[:, k : k + SCALE_BYTES].view(torch.float32)


def product(x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, out: Tensor) -> None:
    """out fp32 [m, n] = (x * x_scale) @ (weight * scale).T

    Args:
        x, x_scale: what `quantise` made.
        weight: e4m3 [n, k].
        scale: fp32 [n, 1], or where x has a scale per 128 inputs [n / 128, k / 128] rounded up or [n, k / 128].

    Raises:
        InputError: a tensor does not fit.
    """
    (m, k), n = x.shape, weight.shape[0]
    _whole_groups("product", k)
    by_block = x.stride(0) == k  # otherwise a row's scale stands behind it
    fits("product", "weight", weight, (n, k), E4M3)
    width, scales = _places(k, by_block)
    if x.dtype is not E4M3 or x.stride() != (width, 1) or x_scale.stride(0) != scales or len(x_scale) != m:
        raise InputError(f"product: x and x_scale must be what `quantise` makes; found {list(x.shape)} of {x.dtype}, {list(x_scale.shape)}")
    shared = 1 if len(scale) == n else GROUP
    fits("product", "scale", scale, (triton.cdiv(n, shared), k // GROUP if by_block else 1))
    fits("product", "out", out, (m, n))
    tile = tile_of(m, n, k)
    tiles = (triton.cdiv(m, tile.m), triton.cdiv(n, tile.n))
    needed = gemm.scratch_size(m, n, k, tile)
    if not needed:
        variant(n, k, by_block, False, shared, tile).launch(tiles, x, weight, x_scale, scale, out, m)
        return
    segments, _ = gemm.segments_of(n, k, tile)
    scratch = torch.empty(needed, device=x.device)
    variant(n, k, by_block, True, shared, tile).launch((*tiles, segments), x, weight, x_scale, scale, scratch, m)
    gemm.merge_variant(segments, "*fp32").launch((triton.cdiv(m * n, gemm.MERGE_BLOCK),), scratch, out, m * n)


def product_by_torch(x: Tensor, x_scale: Tensor, packed: Packed, bias: Tensor | None, out: Tensor) -> None:
    """The same with a scale per row and output and a bias [n], or none; out's rows may lie apart. The order of sums is cuBLAS's."""
    (m, k), n = x.shape, len(packed.codes)
    sums = out if out.is_contiguous() else torch.empty(m, n, device=x.device)
    torch._scaled_mm(x, packed.codes.t(), packed.one, packed.one, out_dtype=torch.float32, out=sums)
    added = x_scale if bias is None else row_facts("product", "bias", bias, n, torch.float32)
    grid = (m, triton.cdiv(n, BLOCK))
    scaled_variant(n, k, bias is not None).launch(grid, sums, x_scale, packed.scale, added, out, out.stride(0))


def _places(k: int, by_block: bool) -> tuple[int, int]:
    """(codes from one row to the next, scales from one row to the next)."""
    width = k if by_block else k + CODES_ROOM
    return width, k // GROUP if by_block else width // SCALE_BYTES


def _whole_groups(op: str, k: int) -> None:
    if k % GROUP:
        raise InputError(f"{op}: k={k}: fp8 weights take multiples of {GROUP} inputs; take quant='int8'")
