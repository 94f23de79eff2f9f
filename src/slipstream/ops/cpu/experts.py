"""Ops of mixtures of experts (docs/numerics.md, section 2), with the bits of ops/reference/experts.py, which describes the arguments."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.arch import RouterSpec
from slipstream.base import native
from slipstream.ops import reference
from slipstream.ops.cpu.checks import fits
from slipstream.ops.types import Layer

_native = native.module


def route(logits: Tensor, correction: Tensor | None, router: RouterSpec, experts: Tensor, shares: Tensor) -> None:
    """Chooses experts [rows, chosen] for each row of logits [rows, experts], and their shares."""
    rows, count, chosen = logits.shape[0], router.experts, router.chosen
    _native.route(
        fits("route", "logits", logits, (rows, count)), rows, count, chosen, router.scoring == "sigmoid",
        router.groups, router.kept, router.group_best, router.normed, router.scale,
        0 if correction is None else fits("route", "correction", correction, (count,)),
        fits("route", "experts", experts, (rows, chosen), torch.int32), fits("route", "shares", shares, (rows, chosen)),
    )  # fmt: skip


def routed(
    x: Tensor, experts: Tensor, shares: Tensor, layers: Sequence[Layer], gathered: Tensor, part: Tensor, out: Tensor
) -> None:
    """Sums each row's experts. On a tape every expert is a tape of its own, so that a replay decides who runs; else Python does."""
    if not _native.recording():
        reference.routed(x, experts, shares, layers, gathered, part, out)
        return
    (rows, hidden), chosen = x.shape, experts.shape[1]
    tapes = []
    for layer in layers:
        tapes.append(_native.Tape())
        tapes[-1].begin(1)
        try:
            layer(gathered[:1], part[:1])
        finally:
            tapes[-1].end()
    buffers = (fits("routed", name, buffer, (rows, hidden)) for name, buffer in (("gathered", gathered), ("part", part), ("out", out)))
    _native.routed(
        fits("routed", "x", x, (rows, hidden)), fits("routed", "experts", experts, (rows, chosen), torch.int32),
        fits("routed", "shares", shares, (rows, chosen)), *buffers, rows, chosen, hidden, tapes,
    )  # fmt: skip


def gate_rows(x: Tensor, gate: Tensor) -> None:
    """x [rows, f] *= sigmoid(gate [rows, 1])."""
    rows, width = x.shape
    _native.gate_rows(fits("gate_rows", "x", x, (rows, width)), fits("gate_rows", "gate", gate, (rows, 1)), rows, width)


def gated_clamped(gate_up: Tensor, out: Tensor, limit: float, slope: float) -> None:
    """out [rows, f] = g * sigmoid(slope * g) * (u + 1) of gate_up [rows, 2 * f], both held within the limit."""
    rows, width = out.shape
    addresses = fits("gated_clamped", "gate_up", gate_up, (rows, 2 * width)), fits("gated_clamped", "out", out, (rows, width))
    _native.gated_clamped(*addresses, limit, slope, rows, width)
