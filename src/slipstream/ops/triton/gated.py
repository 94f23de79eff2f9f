"""Gates of feed-forward layers: activation(gate) * up, in fp32 or rounded to bf16. Owns their kernels; every number by itself. Gate lies
before up, or, where a layer is in pairs (pairs.py), each eight of it before the eight of up."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import activated, sigmoid
from slipstream.ops.triton.launch import Variant, fits, type_name
from slipstream.ops.triton.pairs import SIDE

BLOCK = 1024  # numbers of a row per program


@triton.jit
def _gated(gate_up, out, width: tl.constexpr, activation: tl.constexpr, block: tl.constexpr, apart: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    place = row * (2 * width) + column // apart * (2 * apart) + column % apart
    gate = tl.load(gate_up + place, mask=inside, other=0.0)
    up = tl.load(gate_up + place + apart, mask=inside, other=0.0)
    tl.store(out + row * width + column, (activated(gate, activation) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_clamped(gate_up, out, limit, slope, width: tl.constexpr, block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    gate = tl.minimum(tl.load(gate_up + row * (2 * width) + column, mask=inside, other=0.0), limit)
    up = tl.load(gate_up + row * (2 * width) + width + column, mask=inside, other=0.0)
    up = tl.minimum(tl.maximum(up, -limit), limit)
    result = gate * sigmoid(gate * slope) * (up + 1.0)
    tl.store(out + row * width + column, result.to(out.dtype.element_ty), mask=inside)


@cache
def variant(width: int, activation: str = "silu", out: str = "*fp32", apart: int = 0) -> Variant:
    """The form for `width` outputs of type `out`, "*fp32" or "*bf16"; `apart`: from a number of gate to that of up, 0 for `width`."""
    return Variant(_gated, {"width": width, "activation": activation, "block": BLOCK, "apart": apart or width}, ("*fp32", out))


@cache
def clamped_variant(width: int, out: str = "*fp32") -> Variant:
    """The form of `gated_clamped`."""
    return Variant(_gated_clamped, {"width": width, "block": BLOCK}, ("*fp32", out, "fp32", "fp32"))


def gated(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = silu(gate) * up of gate_up [rows, 2 * f], gate first (Shazeer 2020)."""
    _launch("gated", "silu", gate_up, out)


def gated_gelu(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu(gate) * up of gate_up [rows, 2 * f], gate first."""
    _launch("gated_gelu", "gelu", gate_up, out)


def gated_gelu_tanh(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu_tanh(gate) * up of gate_up [rows, 2 * f], gate first."""
    _launch("gated_gelu_tanh", "gelu_tanh", gate_up, out)


def gated_pairs(gate_up: Tensor, out: Tensor, activation: str) -> None:
    """out [rows, f] = activation(gate) * up of gate_up [rows, 2 * f] in pairs; activation "silu", "gelu" or "gelu_tanh"."""
    _launch("gated_pairs", activation, gate_up, out, SIDE)


def gated_clamped(gate_up: Tensor, out: Tensor, limit: float, slope: float) -> None:
    """out [rows, f] = g * sigmoid(slope * g) * (u + 1) of gate_up [rows, 2 * f], gate first; g = min(gate, limit), u = up held within
    -limit .. limit."""
    rows, width, kind = _check("gated_clamped", gate_up, out)
    clamped_variant(width, kind).launch((rows, triton.cdiv(width, BLOCK)), gate_up, out, limit, slope)


def _launch(op: str, activation: str, gate_up: Tensor, out: Tensor, apart: int = 0) -> None:
    rows, width, kind = _check(op, gate_up, out)
    variant(width, activation, kind, apart).launch((rows, triton.cdiv(width, BLOCK)), gate_up, out)


def _check(op: str, gate_up: Tensor, out: Tensor) -> tuple[int, int, str]:
    """(rows, width, type of out)."""
    rows, width = out.shape
    fits(op, "gate_up", gate_up, (rows, 2 * width))
    return rows, width, type_name(op, "out", fits(op, "out", out, (rows, width), out.dtype))
