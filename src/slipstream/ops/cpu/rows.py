"""Ops that read one row and write one row: embedding, norms, activations, scaling. Must not know the cache or weights."""

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops.cpu.checks import fits, float_type, integers

_native = native.module


def embed(ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out [rows, hidden] = table [vocab, hidden] at ids [rows]."""
    rows, (vocab, hidden) = ids.shape[0], table.shape
    dtype = float_type("embed", "table", table)
    _native.embed(
        integers("embed", "ids", ids, rows), fits("embed", "table", table, (vocab, hidden), dtype), dtype is torch.bfloat16,
        fits("embed", "out", out, (rows, hidden)), rows, vocab, hidden,
    )  # fmt: skip


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = RMSNorm(x) * weight (Zhang and Sennrich 2019); with a residual, x += residual in place first."""
    rows, hidden = x.shape
    added = 0 if residual is None else fits("norm", "residual", residual, (rows, hidden))
    _native.norm(
        fits("norm", "x", x, (rows, hidden)), added, fits("norm", "weight", weight, (hidden,)), eps,
        fits("norm", "out", out, (rows, hidden)), rows, hidden,
    )  # fmt: skip


def gated(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = silu(gate) * up, gate_up [rows, 2 f], gate first."""
    rows, width = out.shape
    _native.gated(fits("gated", "gate_up", gate_up, (rows, 2 * width)), fits("gated", "out", out, (rows, width)), rows, width)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """out = LayerNorm(x) * weight + bias (Ba et al. 2016); with a residual, x += residual in place first."""
    rows, hidden = x.shape
    added = 0 if residual is None else fits("layer_norm", "residual", residual, (rows, hidden))
    _native.layer_norm(
        fits("layer_norm", "x", x, (rows, hidden)), added, fits("layer_norm", "weight", weight, (hidden,)),
        fits("layer_norm", "bias", bias, (hidden,)), eps, fits("layer_norm", "out", out, (rows, hidden)), rows, hidden,
    )  # fmt: skip


def norm_slices(x: Tensor, weight: Tensor, start: int, size: int, eps: float) -> None:
    """RMSNorm of columns start .. start + len(weight) of x [rows, any], every `size` of them by themselves, in place."""
    (rows, width), columns = x.shape, weight.shape[0]
    if size < 1 or columns % size or not 0 <= start <= width - columns:
        raise InputError(f"norm_slices: {columns} columns from {start} on in slices of {size} do not fit x of {width} columns")
    _native.norm_slices(
        fits("norm_slices", "x", x, (rows, width)), fits("norm_slices", "weight", weight, (columns,)), start, size, columns // size, eps,
        rows, width,
    )  # fmt: skip


def gated_gelu(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu(gate) * up, gate_up [rows, 2 f], gate first."""
    (rows, width), op = out.shape, "gated_gelu"
    _native.gated_gelu(fits(op, "gate_up", gate_up, (rows, 2 * width)), fits(op, "out", out, (rows, width)), rows, width)


def gated_gelu_tanh(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu_tanh(gate) * up, gate_up [rows, 2 f], gate first."""
    (rows, width), op = out.shape, "gated_gelu_tanh"
    _native.gated_gelu_tanh(fits(op, "gate_up", gate_up, (rows, 2 * width)), fits(op, "out", out, (rows, width)), rows, width)


def gelu(x: Tensor) -> None:
    """x [rows, f] / 2 * (1 + erf(x / sqrt(2))), in place."""
    _native.gelu(fits("gelu", "x", x, tuple(x.shape)), *x.shape)


def gelu_tanh(x: Tensor) -> None:
    """The tanh form of gelu (Hendrycks and Gimpel 2016) of x [rows, f], in place."""
    _native.gelu_tanh(fits("gelu_tanh", "x", x, tuple(x.shape)), *x.shape)


def add(x: Tensor, y: Tensor) -> None:
    """x += y, both [rows, f]."""
    shape = tuple(x.shape)
    _native.add(fits("add", "x", x, shape), fits("add", "y", y, shape), *shape)


def scale(x: Tensor, factor: float) -> None:
    """x [rows, f] *= factor."""
    _native.scale(fits("scale", "x", x, tuple(x.shape)), factor, *x.shape)


def spread(some: Tensor, places: Tensor, out: Tensor) -> None:
    """out [rows, f]: column c is column places[c] of some [rows, n], or -inf where places [f] int32 is below 0 (or not below n)."""
    (rows, width), count, op = out.shape, some.shape[1], "spread"
    places_at = fits(op, "places", places, (width,), torch.int32)
    _native.spread(fits(op, "some", some, (rows, count)), places_at, fits(op, "out", out, (rows, width)), rows, count, width)


def softcap(x: Tensor, cap: float) -> None:
    """x [rows, f] = cap * tanh(x / cap), in place; cap > 0."""
    if not cap > 0:
        raise InputError(f"softcap: cap={cap} must be above 0")
    _native.softcap(fits("softcap", "x", x, tuple(x.shape)), cap, *x.shape)
