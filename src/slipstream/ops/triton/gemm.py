"""Matrix product with one arithmetic for every number of rows: the linear layer of deterministic settings (docs/numerics.md, section 1).

Owns its kernels and the choice of who computes what. K is cut into segments that follow from the layer alone. Within a
segment the tensor cores add in ascending blocks of K from zero; segments are added in ascending order in fp32, the first
one taken as it is. Two ways lead to the same bits:

    whole   one program per tile of the result goes through all segments: many rows
    parts   one program per tile and segment, then a sum in the same order: few rows, where tiles alone do not fill the GPU

So the number of rows decides who works, never in which order a row is added. That tensor cores give a row the same bits at
every place of a tile is an assumption: `bench gpu-suite --only row_invariance` asks the device.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, type_name

FILL = 264  # programs that fill an H100 or H200, two per multiprocessor; decides how many segments a layer has
WHOLE_FROM = 264  # tiles from which one program goes through all segments; with fewer they are programs of their own; no bits depend on it
MERGE_BLOCK = 1024  # numbers per program of the sum over segments


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the result that one program makes: m rows by n outputs, in blocks of k; threads / 32 and pipeline depth."""

    m: int = 64
    n: int = 128
    k: int = 64
    warps: int = 4
    stages: int = 4


TILE = Tile()
BY_ROWS = (  # (up to how many rows, tile) of bf16, by decode_gemm on an H200; of as many outputs and inputs, so that no bits depend on it
    (64, TILE),
    (1 << 31, Tile(128, TILE.n, TILE.k, 8, 4)),
)
TILE_FP32 = Tile(32, 64, 32, 4, 3)  # without tensor cores: products in fp32, none of them rounded to TF32


@triton.jit(do_not_specialize=["m"])
def _product(
    x, weight, out, m,
    n: tl.constexpr, k: tl.constexpr, segments: tl.constexpr, segment: tl.constexpr, parts: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)  # neighbours share a tile of the weight
    column = tl.program_id(1) * block_n + tl.arange(0, block_n)
    inner = tl.arange(0, block_k)
    here, there = row < m, column < n
    left = x + row.to(tl.int64)[:, None] * k + inner[None, :]
    right = weight + column.to(tl.int64)[None, :] * k + inner[:, None]
    total = tl.zeros((block_m, block_n), tl.float32)
    first = tl.program_id(2) if parts else 0
    for number in range(first, first + 1 if parts else segments):
        begin = number * segment
        part = tl.zeros((block_m, block_n), tl.float32)
        for at in range(begin, tl.minimum(begin + segment, k), block_k):
            if k % block_k == 0:
                a = tl.load(left + at, mask=here[:, None], other=0.0)
                b = tl.load(right + at, mask=there[None, :], other=0.0)
            else:
                a = tl.load(left + at, mask=here[:, None] & (at + inner < k)[None, :], other=0.0)
                b = tl.load(right + at, mask=there[None, :] & (at + inner < k)[:, None], other=0.0)
            part = tl.dot(a, b, part, input_precision="ieee")
        total = part if number == first else total + part
    place = row.to(tl.int64)[:, None] * n + column[None, :]
    if parts:
        place += first.to(tl.int64) * m * n
    tl.store(out + place, total.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])


@triton.jit(do_not_specialize=["size"])
def _merge(scratch, out, size, segments: tl.constexpr, block: tl.constexpr):
    await_turn()
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = place < size
    total = tl.load(scratch + place, mask=inside)
    for number in tl.static_range(1, segments):
        total += tl.load(scratch + number * size.to(tl.int64) + place, mask=inside)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def segments_of(n: int, k: int, tile: Tile = TILE) -> tuple[int, int]:
    """(segments, their length) of a layer with n outputs and k inputs: enough for a single row of tiles to fill the GPU, each
    of at least 4 blocks; whole blocks of the tile's k."""
    blocks = triton.cdiv(k, tile.k)
    wanted = max(1, min(16, FILL // triton.cdiv(n, tile.n), blocks // 4))
    length = triton.cdiv(blocks, wanted)
    return triton.cdiv(blocks, length), length * tile.k


@cache
def variant(n: int, k: int, out: str, parts: bool, tile: Tile = TILE, kind: str = "*bf16") -> Variant:
    """The form for a layer [n, k] of type `kind`, results of type `out`, "*fp32" or "*bf16"; `parts`: segments as programs of their own."""
    segments, length = segments_of(n, k, tile)
    constants = {
        "n": n, "k": k, "segments": segments, "segment": length, "parts": parts, "block_m": tile.m, "block_n": tile.n, "block_k": tile.k,
    }  # fmt: skip
    return Variant(_product, constants, (kind, kind, out, "i32"), tile.warps, tile.stages)


@cache
def merge_variant(segments: int, out: str) -> Variant:
    """The form that adds `segments` parts to a result of type "*fp32" or "*bf16"."""
    return Variant(_merge, {"segments": segments, "block": MERGE_BLOCK}, ("*fp32", out, "i32"))


def tile_of(m: int, dtype: torch.dtype) -> Tile:
    """The tile that serves m rows."""
    return TILE_FP32 if dtype is torch.float32 else next(tile for most, tile in BY_ROWS if m <= most)


def scratch_size(m: int, n: int, k: int, tile: Tile = TILE) -> int:
    """Numbers (fp32) of scratch that `matmul` of m rows needs; 0 where whole tiles fill the GPU or there is one segment."""
    segments, _ = segments_of(n, k, tile)
    tiles = triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n)
    return segments * m * n if segments > 1 and tiles < WHOLE_FROM else 0


def matmul(x: Tensor, weight: Tensor, out: Tensor, scratch: Tensor | None = None, *, tile: Tile | None = None) -> None:
    """out = x @ weight.T with the same bits for a row whatever `m` is and wherever in x it stands.

    Args:
        x: [m, k], weight: [n, k], both bf16 or both fp32; out: [m, n] fp32 or bf16.
        scratch: fp32, at least `scratch_size(m, n, k)` numbers; allocated where it is not given.
        tile: None is the one for the type and so many rows; another is another arithmetic as long as the device has not been asked.

    Raises:
        InputError: a tensor does not fit.
    """
    (m, k), n = x.shape, weight.shape[0]
    kind, result = type_name("matmul", "x", x), type_name("matmul", "out", out)
    tile = tile or tile_of(m, x.dtype)
    fits("matmul", "x", x, (m, k), x.dtype)
    fits("matmul", "weight", weight, (n, k), x.dtype)
    fits("matmul", "out", out, (m, n), out.dtype)
    tiles = (triton.cdiv(m, tile.m), triton.cdiv(n, tile.n))
    needed = scratch_size(m, n, k, tile)
    if not needed:
        variant(n, k, result, False, tile, kind).launch(tiles, x, weight, out, m)
        return
    if scratch is None:
        scratch = torch.empty(needed, device=x.device)
    elif scratch.dtype is not torch.float32 or scratch.numel() < needed:
        raise InputError(f"matmul: scratch must hold {needed} fp32 numbers; found {scratch.numel()} of {scratch.dtype}")
    segments, _ = segments_of(n, k, tile)
    variant(n, k, "*fp32", True, tile, kind).launch((*tiles, segments), x, weight, scratch, m)
    merge_variant(segments, result).launch((triton.cdiv(m * n, MERGE_BLOCK),), scratch, out, m * n)
