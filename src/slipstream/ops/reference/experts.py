"""Ops of mixtures of experts: routing and adding the experts' parts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.arch import RouterSpec
from slipstream.ops.experts import by_expert
from slipstream.ops.reference.arithmetic import one_thread, sigmoid, softmax, total
from slipstream.ops.types import Layer


@one_thread()
def route(logits: Tensor, correction: Tensor | None, router: RouterSpec, experts: Tensor, shares: Tensor) -> None:
    """Chooses experts for each row (docs/numerics.md, `route`); ties go to the lower number.

    Args:
        logits: [rows, router.experts]
        correction: added to the scores for choosing only. [router.experts]
        experts: int32 [rows, router.chosen], written: the numbers in ascending order.
        shares: [rows, router.chosen], written: their weights.
    """
    scores = sigmoid(logits) if router.scoring == "sigmoid" else softmax(logits)
    choice = scores if correction is None else scores + correction
    if router.groups > 1:
        groups = choice.unflatten(1, (router.groups, -1))
        best = total(groups.sort(descending=True).values[..., : router.group_best])  # [rows, groups]
        kept_groups = best.sort(descending=True, stable=True).indices[:, : router.kept]
        left_out = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept_groups, False)
        choice = groups.masked_fill(left_out[..., None], -math.inf).flatten(1)
    numbers = choice.sort(descending=True, stable=True).indices[:, : router.chosen].sort().values
    taken = scores.gather(1, numbers)
    if router.normed:
        taken = taken / (total(taken)[:, None] + 1e-20)
    experts.copy_(numbers)
    torch.mul(taken, torch.tensor(router.scale, dtype=torch.float32), out=shares)


def routed(
    x: Tensor, experts: Tensor, shares: Tensor, layers: Sequence[Layer], gathered: Tensor, part: Tensor, out: Tensor
) -> None:
    """out [rows, hidden] = the sum over each row's experts of share * layer(x), in ascending order of the experts' numbers.

    Args:
        x: [rows, hidden]
        experts, shares: what `route` wrote. [rows, chosen]
        layers: one per expert.
        gathered, part: buffers for these. [rows, hidden]
    """
    out.zero_()
    for number, rows, share in by_expert(experts, shares, len(layers)):
        read, made = gathered[: len(rows)], part[: len(rows)]
        torch.index_select(x, 0, rows, out=read)
        layers[number](read, made)
        _add_rows(out, rows, made, share)


@one_thread()
def _add_rows(out: Tensor, rows: Tensor, part: Tensor, shares: Tensor) -> None:
    """out[rows[i]] += shares[i] * part[i], product and sum rounded one after the other; rows are all different, part is changed."""
    part.mul_(shares[:, None])
    out.index_add_(0, rows, part)


def gate_rows(x: Tensor, gate: Tensor) -> None:
    """x [rows, f] *= sigmoid(gate [rows, 1])."""
    x.mul_(sigmoid(gate))


@one_thread()
def gated_clamped(gate_up: Tensor, out: Tensor, limit: float, slope: float) -> None:
    """out [rows, f] = g * sigmoid(slope * g) * (u + 1) of gate_up [rows, 2 * f], gate first; g = min(gate, limit), u = up held within
    -limit .. limit."""
    gate, up = gate_up.chunk(2, dim=1)
    gate = gate.clamp(max=limit)
    torch.mul(gate * sigmoid(gate * torch.tensor(slope, dtype=torch.float32)), up.clamp(-limit, limit) + 1, out=out)
