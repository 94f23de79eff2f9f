"""Ops on numbers in place: gelu, addition, scaling, soft cap, gates of whole rows. Owns their kernel; every number by itself."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import activated, sigmoid, tanh
from slipstream.ops.triton.launch import Variant, fits

BLOCK = 1024  # numbers of a row per program


@triton.jit(do_not_specialize=["width"])
def _changed(x, other, factor, width, op: tl.constexpr, block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    place = row * width + column
    value = tl.load(x + place, mask=inside, other=0.0)
    if op == "add":
        value += tl.load(other + place, mask=inside, other=0.0)
    elif op == "scale":
        value *= factor
    elif op == "softcap":
        value = tanh(tl.div_rn(value, factor)) * factor
    elif op == "gate_rows":
        value *= sigmoid(tl.load(other + row))
    else:
        value = activated(value, op)
    tl.store(x + place, value, mask=inside)


@cache
def variant(op: str) -> Variant:
    """The form of an op, for rows of any width."""
    return Variant(_changed, {"op": op, "block": BLOCK}, ("*fp32", "*fp32", "fp32", "i32"))


def gelu(x: Tensor) -> None:
    """gelu of x [rows, f] in place."""
    _launch("gelu", x)


def gelu_tanh(x: Tensor) -> None:
    """gelu_tanh of x [rows, f] in place."""
    _launch("gelu_tanh", x)


def add(x: Tensor, y: Tensor) -> None:
    """x += y, both [rows, f]."""
    _launch("add", x, fits("add", "y", y, x.shape))


def scale(x: Tensor, factor: float) -> None:
    """x [rows, f] *= factor."""
    _launch("scale", x, factor=factor)


def softcap(x: Tensor, cap: float) -> None:
    """x [rows, f] = cap * tanh(x / cap), in place; cap > 0."""
    if not cap > 0:
        raise InputError(f"softcap: cap={cap} must be above 0")
    _launch("softcap", x, factor=cap)


def gate_rows(x: Tensor, gate: Tensor) -> None:
    """x [rows, f] *= sigmoid(gate [rows, 1])."""
    _launch("gate_rows", x, fits("gate_rows", "gate", gate, (len(x), 1)))


def _launch(op: str, x: Tensor, other: Tensor | None = None, factor: float = 0.0) -> None:
    rows, width = x.shape
    fits(op, "x", x, (rows, width))
    variant(op).launch((rows, triton.cdiv(width, BLOCK)), x, x if other is None else other, factor, width)
