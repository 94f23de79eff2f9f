"""Mixtures of experts all at once, on the device: no host learns which rows an expert has, so a step can be captured as a graph.

Owns the kernels and their forms. A *pair* is a row and one of its experts, number row * chosen + place among the row's experts.

    _members   a program per expert lists its pairs, in ascending order
    _product   tiles of an expert's pairs by blocks of outputs: gate and up with the activation, then down. As many programs as there
               could be tiles: an expert without rows has none, each other may have one that is not full. Where they lie every program
               finds out from the numbers of pairs
    _sum       a row's parts, each times its share, in the order of the experts' numbers

So a row's bits do not depend on its company: K goes from first to last from zero, rows of a tile do not mix, and sums of parts follow the
row's own list. Tiles follow from the number of rows in fast settings; deterministic settings have one.
Codes in e4m3 are widened to bf16, which is exact, and meet rows in bf16; the scale of an output is multiplied to its sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import BackendError, InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import activated, sigmoid
from slipstream.ops.triton.gemm import Tile
from slipstream.ops.triton.launch import NARROW_FROM, Variant, fits, power_of_two, row_facts, type_name
from slipstream.ops.triton.tuned import Ranges
from slipstream.ops.types import AT_ONCE, Activation, check_stored

MANY = Tile(64, 64, 64, 4, 3)  # n: outputs of gate and as many of up; down has twice as many
FAST = Ranges("experts", ({"tile": Tile},))  # fast settings, by the rows of an expert if all had as many (`experts`)
TILE_FP32 = Tile(16, 32, 32, 4, 2)  # without tensor cores
CODES = "*fp8e4nv"
SEARCH, BLOCK = 1024, 1024  # pairs that are looked at together; numbers of a row that one program sums


@triton.jit(do_not_specialize=["pairs", "rows"], do_not_specialize_on_alignment=["experts"])
def _members(experts, members, counts, pairs, rows, block: tl.constexpr):
    await_turn()
    expert, found = tl.program_id(0), 0
    for begin in range(0, pairs, block):
        pair = begin + tl.arange(0, block)
        mine = (tl.load(experts + pair, mask=pair < pairs, other=-1) == expert).to(tl.int32)
        place = found + tl.cumsum(mine, axis=0) - 1
        tl.store(members + expert * rows + place, pair, mask=(mine > 0) & (place < rows))
        found += tl.sum(mine, axis=0)
    tl.store(counts + expert, tl.minimum(found, rows))  # more than one pair of a row and an expert are none that `route` made


@triton.jit(do_not_specialize=["rows", "limit", "slope"])
def _product(
    x, weight, scales, bias, members, counts, out, rows, limit, slope,
    experts: tl.constexpr, block_experts: tl.constexpr, n: tl.constexpr, k: tl.constexpr, per_row: tl.constexpr, activation: tl.constexpr,
    has_bias: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    await_turn()
    number = tl.program_id(0)
    every = tl.arange(0, block_experts)
    tiles = tl.cdiv(tl.load(counts + every, mask=every < experts, other=0), block_m)
    before = tl.cumsum(tiles, axis=0) <= number  # experts whose tiles all come before this one
    expert = tl.sum(before.to(tl.int32), axis=0)
    if expert < experts:
        place = (number - tl.sum(tl.where(before, tiles, 0), axis=0)) * block_m + tl.arange(0, block_m)
        here = place < tl.load(counts + expert)
        pair = tl.load(members + expert * rows + place, mask=here, other=0)
        column, inner = tl.program_id(1) * block_n + tl.arange(0, block_n), tl.arange(0, block_k)
        there = column < n
        outputs: tl.constexpr = n if activation == "none" else 2 * n
        coded: tl.constexpr = weight.dtype.element_ty == tl.float8e4nv
        kind: tl.constexpr = tl.bfloat16 if coded else weight.dtype.element_ty
        left = x + (pair // per_row).to(tl.int64)[:, None] * k + inner[None, :]
        right = weight + (expert.to(tl.int64) * outputs + column)[None, :] * k + inner[:, None]
        total = tl.zeros((block_m, block_n), tl.float32)
        up = total
        for at in range(0, k, block_k):
            inside = (at + inner < k) if k % block_k else (inner >= 0)
            a = tl.load(left + at, mask=here[:, None] & inside[None, :], other=0.0).to(kind)
            mask = there[None, :] & inside[:, None]
            total = tl.dot(a, tl.load(right + at, mask=mask, other=0.0).to(kind), total, input_precision="ieee")
            if activation != "none":
                up = tl.dot(a, tl.load(right + (n * k + at), mask=mask, other=0.0).to(kind), up, input_precision="ieee")
        output = expert * outputs + column
        if coded:
            total *= tl.load(scales + output, mask=there, other=0.0)[None, :]
            if activation != "none":
                up *= tl.load(scales + output + n, mask=there, other=0.0)[None, :]
        if has_bias:
            total += tl.load(bias + output, mask=there, other=0.0)[None, :]
        if activation != "none":
            if has_bias:
                up += tl.load(bias + output + n, mask=there, other=0.0)[None, :]
            if activation == "clamped":
                total = tl.minimum(total, limit)
                total = total * sigmoid(total * slope) * (tl.minimum(tl.maximum(up, -limit), limit) + 1.0)
            else:
                total = activated(total, activation) * up
        cell = out + pair.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(cell, total.to(out.dtype.element_ty), mask=here[:, None] & there[None, :])


@triton.jit(do_not_specialize_on_alignment=["shares"])
def _sum(parts, shares, out, width: tl.constexpr, chosen: tl.constexpr, block: tl.constexpr):
    await_turn()
    pair = tl.program_id(0).to(tl.int64) * chosen
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    total = tl.zeros([block], tl.float32)
    for number in tl.static_range(chosen):
        part = tl.load(parts + (pair + number) * width + column, mask=inside, other=0.0)
        total = total + part * tl.load(shares + pair + number)
    tl.store(out + tl.program_id(0).to(tl.int64) * width + column, total, mask=inside)


@cache
def members_variant() -> Variant:
    """The form for any number of pairs."""
    return Variant(_members, {"block": SEARCH}, ("*i32", "*i32", "*i32", "i32", "i32"))


@cache
def variant(
    experts: int, n: int, k: int, kind: str, tile: Tile, *, activation: str = "none", per_row: int = 1, has_bias: bool = False
) -> Variant:
    """The form of a product with n outputs (of gate, and of up) and k inputs.

    Args:
        kind: of the weights, "*fp32", "*bf16" or "*fp8e4nv"; what lies between the two products is fp32 or bf16.
        activation: of gate and up; "none" is down.
        per_row: pairs that read one row of x: as many as a row has experts, or 1 where x has a row for each pair.
    """
    plain = activation == "none"
    constants = {
        "experts": experts, "block_experts": power_of_two(experts), "n": n, "k": k, "per_row": per_row, "activation": activation,
        "has_bias": has_bias, "block_m": tile.m, "block_n": tile.n * (2 if plain else 1), "block_k": tile.k,
    }  # fmt: skip
    inner = "*bf16" if kind == CODES else kind
    types = (
        inner if plain else "*fp32", kind, "*fp32", "*fp32", "*i32", "*i32", "*fp32" if plain else inner, "i32", "fp32", "fp32",
    )  # fmt: skip
    return Variant(_product, constants, types, warps=tile.warps, stages=tile.stages)


@cache
def sum_variant(width: int, chosen: int) -> Variant:
    """The form for rows of this width with so many experts each."""
    return Variant(_sum, {"width": width, "chosen": chosen, "block": BLOCK}, ("*fp32", "*fp32", "*fp32"))


def tile_of(pairs: int, experts: int, kind: str, invariant: bool) -> Tile:
    """The tile for so many pairs; in fast settings by the rows of an expert, if the experts share them evenly."""
    if kind == "*fp32":
        return TILE_FP32
    return MANY if invariant else next(tile for most, tile in FAST.now if pairs <= most * experts)


def tiles_of(pairs: int, experts: int, tile: Tile) -> int:
    """The most tiles that so many pairs can make."""
    return min(pairs, experts) + pairs // tile.m


@dataclass(frozen=True, slots=True)
class Stacked:
    """The experts of a layer.

    Attributes:
        gate_up, down: [experts, 2 * width, hidden], gate first; [experts, hidden, width].
        biases, scales: of both, [experts, 2 * width] and [experts, hidden]; none where they have none.
    """

    gate_up: Tensor
    down: Tensor
    biases: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Mixture:
    """See ops/types.py, ExpertsKernel; for experts in fp32, bf16 or fp8.

    Attributes:
        format: of the weights.
        invariant: a row has the same bits whatever the number of rows.
    """

    format: str
    invariant: bool = False

    def deterministic(self) -> "Mixture":
        """The same with one tile for every number of rows."""
        return replace(self, invariant=True)

    @property
    def name(self) -> str:
        return f"triton_experts_{self.format}"

    def prepare(self, gate_up: dict[str, Tensor], down: dict[str, Tensor], biases: Sequence[Tensor] = ()) -> Stacked:
        """See ExpertsKernel. BackendError where the GPU does not know e4m3."""
        weight = gate_up["weight"]
        if self.format == "fp8" and weight.is_cuda and torch.cuda.get_device_capability(weight.device) < NARROW_FROM:
            raise BackendError(f"{self.name}: needs a GPU of compute capability 8.9 or later (Ada, Hopper); take quant='bf16'")
        for stored in (gate_up, down):
            check_stored(self.name, self.format, {name: tensor.flatten(0, 1) for name, tensor in stored.items()})
        (count, both, hidden), width = gate_up["weight"].shape, down["weight"].shape[2]
        if both != 2 * width or down["weight"].shape != (count, hidden, width):
            raise InputError(f"{self.name}: gate and up {list(gate_up['weight'].shape)} do not fit down {list(down['weight'].shape)}")
        scales = (gate_up["scale"], down["scale"]) if self.format == "fp8" else ()
        return Stacked(
            weight.contiguous(), down["weight"].contiguous(), *(tuple(part.contiguous() for part in parts) for parts in (biases, scales))
        )

    def run(self, x: Tensor, experts: Tensor, shares: Tensor, prepared: Stacked, activation: Activation, out: Tensor) -> None:
        """See ExpertsKernel. Five launches, by shapes only."""
        (rows, chosen), (count, hidden, width) = experts.shape, prepared.down.shape
        pairs, device = rows * chosen, x.device
        fits(self.name, "x", x, (rows, hidden))
        fits(self.name, "out", out, (rows, hidden))
        row_facts(self.name, "experts", experts.view(-1), pairs)
        row_facts(self.name, "shares", shares.view(-1), pairs, torch.float32)
        kind = CODES if prepared.scales else type_name(self.name, "weight", prepared.down)
        between = torch.bfloat16 if prepared.scales else prepared.down.dtype
        members = torch.empty(count, rows, dtype=torch.int32, device=device)
        counts = torch.empty(count, dtype=torch.int32, device=device)
        inner = torch.empty(pairs, width, dtype=between, device=device)
        parts = torch.empty(pairs, hidden, device=device)
        tile = tile_of(pairs, count, kind, self.invariant)
        tiles = tiles_of(pairs, count, tile)
        biases, scales = prepared.biases or (x, x), prepared.scales or (x, x)
        facts = {"has_bias": bool(prepared.biases)}
        members_variant().launch((count,), experts, members, counts, pairs, rows)
        made = variant(count, width, hidden, kind, tile, activation=activation.name, per_row=chosen, **facts)
        made.launch(
            (tiles, triton.cdiv(width, tile.n)), x, prepared.gate_up, scales[0], biases[0], members, counts, inner, rows,
            activation.limit, activation.slope,
        )  # fmt: skip
        made = variant(count, hidden, width, kind, tile, **facts)
        made.launch(
            (tiles, triton.cdiv(hidden, 2 * tile.n)), inner, prepared.down, scales[1], biases[1], members, counts, parts, rows, 0.0, 1.0
        )
        sum_variant(hidden, chosen).launch((rows, triton.cdiv(hidden, BLOCK)), parts, shares, out)


KERNELS = {f"experts_{format}": Mixture(format) for format in AT_ONCE}
