"""Ops on numbers, every one by itself: gelu, addition, scaling, soft cap, gates of whole rows, in place; columns spread over more. Owns
their kernels."""

from functools import cache

import torch
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


@triton.jit(do_not_specialize=["count", "width"])
def _spread(some, places, out, count, width, block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    place = tl.load(places + column, mask=inside, other=-1)
    known = (place >= 0) & (place < count)
    value = tl.load(some + row * count + place, mask=known, other=float("-inf"))
    tl.store(out + row * width + column, value, mask=inside)


@cache
def variant(op: str) -> Variant:
    """The form of an op, for rows of any width."""
    if op == "spread":
        return Variant(_spread, {"block": BLOCK}, ("*fp32", "*i32", "*fp32", "i32", "i32"))
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


def spread(some: Tensor, places: Tensor, out: Tensor) -> None:
    """out [rows, f]: column c is column places[c] of some [rows, n], or -inf where places [f] int32 is not one of them."""
    (rows, width), count, op = out.shape, some.shape[1], "spread"
    places = fits(op, "places", places, (width,), torch.int32)
    grid = (rows, triton.cdiv(width, BLOCK))
    variant(op).launch(grid, fits(op, "some", some, (rows, count)), places, fits(op, "out", out, (rows, width)), count, width)


def _launch(op: str, x: Tensor, other: Tensor | None = None, factor: float = 0.0) -> None:
    rows, width = x.shape
    fits(op, "x", x, (rows, width))
    variant(op).launch((rows, triton.cdiv(width, BLOCK)), x, x if other is None else other, factor, width)
