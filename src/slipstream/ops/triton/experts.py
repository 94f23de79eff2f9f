"""Mixtures of experts: which experts a row goes to, and adding their parts. Owns the kernels: one program per row (and block of it)."""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.arch import RouterSpec
from slipstream.ops.experts import by_expert
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import exp, sigmoid
from slipstream.ops.triton.embed import embed
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts
from slipstream.ops.types import Layer

BLOCK = 1024  # numbers of a row per program


@triton.jit
def _route(
    logits, correction, experts, shares, scale,
    groups: tl.constexpr, size: tl.constexpr, chosen: tl.constexpr, kept: tl.constexpr, best_two: tl.constexpr, soft: tl.constexpr,
    corrected: tl.constexpr, normed: tl.constexpr, block_groups: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, block_groups)
    expert = group[:, None] * size + tl.arange(0, block)[None, :]  # [groups, experts of a group]
    there = (group < groups)[:, None] & (tl.arange(0, block) < size)[None, :]
    expert = tl.where(there, expert, groups * size)  # a filled-up group must not name an expert of the next
    logit = tl.load(logits + row * (groups * size) + expert, mask=there, other=float("-inf"))
    if soft:
        power = tl.where(there, exp(logit - tl.max(tl.max(logit, axis=1), axis=0)), 0.0)
        score = tl.div_rn(power, tl.sum(tl.sum(power, axis=1), axis=0))
    else:
        score = sigmoid(logit)
    choice = score
    if corrected:
        choice += tl.load(correction + expert, mask=there, other=0.0)
    choice = tl.where(there, choice, float("-inf"))
    if groups > 1:
        worth = tl.max(choice, axis=1)
        if best_two:
            first = tl.min(tl.where(choice == worth[:, None], expert, groups * size), axis=1)
            worth += tl.max(tl.where(expert == first[:, None], float("-inf"), choice), axis=1)
        stays = group < 0
        for _ in tl.static_range(kept):
            taken = tl.min(tl.where(worth == tl.max(worth, axis=0), group, groups), axis=0)
            stays = stays | (group == taken)
            worth = tl.where(group == taken, float("-inf"), worth)
        choice = tl.where(stays[:, None], choice, float("-inf"))
    mine = expert < 0
    for _ in tl.static_range(chosen):
        greatest = tl.max(tl.max(choice, axis=1), axis=0)
        taken = tl.min(tl.min(tl.where(choice == greatest, expert, groups * size), axis=1), axis=0)
        mine = mine | (expert == taken)
        choice = tl.where(expert == taken, float("-inf"), choice)
    share = tl.where(mine, score, 0.0)
    if normed:
        share = tl.div_rn(share, tl.sum(tl.sum(share, axis=1), axis=0) + 1e-20)
    flat = tl.reshape(mine, [block_groups * block])
    place = row * chosen + tl.cumsum(flat.to(tl.int32), axis=0) - 1
    tl.store(experts + place, tl.reshape(expert, [block_groups * block]), mask=flat)
    tl.store(shares + place, tl.reshape(share, [block_groups * block]) * scale, mask=flat)


@triton.jit(do_not_specialize=["width"], do_not_specialize_on_alignment=["rows", "shares"])
def _add_rows(out, rows, part, shares, width, block: tl.constexpr):
    await_turn()
    number = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < width
    place = out + tl.load(rows + number).to(tl.int64) * width + column
    more = tl.load(part + number * width + column, mask=inside, other=0.0) * tl.load(shares + number)
    tl.store(place, tl.load(place, mask=inside, other=0.0) + more, mask=inside)


@cache
def route_variant(router: RouterSpec, corrected: bool) -> Variant:
    """The form for a router."""
    size = router.experts // router.groups
    constants = {
        "groups": router.groups, "size": size, "chosen": router.chosen, "kept": router.kept, "best_two": router.group_best == 2,
        "soft": router.scoring == "softmax", "corrected": corrected, "normed": router.normed,
        "block_groups": power_of_two(router.groups), "block": power_of_two(size),
    }  # fmt: skip
    return Variant(_route, constants, ("*fp32", "*fp32", "*i32", "*fp32", "fp32"), warps=1)


@cache
def add_variant() -> Variant:
    """The form of `_add`, for rows of any width."""
    return Variant(_add_rows, {"block": BLOCK}, ("*fp32", "*i32", "*fp32", "*fp32", "i32"))


def route(logits: Tensor, correction: Tensor | None, router: RouterSpec, experts: Tensor, shares: Tensor) -> None:
    """Chooses experts for each row (docs/numerics.md, `route`); ties go to the lower number. Arguments: ops/reference/experts.py."""
    rows = len(logits)
    fits("route", "logits", logits, (rows, router.experts))
    row_facts("route", "experts", experts.view(-1), rows * router.chosen)
    row_facts("route", "shares", shares.view(-1), rows * router.chosen, torch.float32)
    added = logits if correction is None else fits("route", "correction", correction, (router.experts,))
    route_variant(router, correction is not None).launch((rows,), logits, added, experts, shares, router.scale)


def routed(
    x: Tensor, experts: Tensor, shares: Tensor, layers: Sequence[Layer], gathered: Tensor, part: Tensor, out: Tensor
) -> None:
    """Sums each row's experts, one expert after the other; the host waits for their numbers. Arguments: ops/reference/experts.py."""
    out.zero_()
    for number, rows, share in by_expert(experts, shares, len(layers)):
        read, made = gathered[: len(rows)], part[: len(rows)]
        embed(rows, x, read)  # the same gather as of tokens
        layers[number](read, made)
        _add(out, rows, made, share)


def _add(out: Tensor, rows: Tensor, part: Tensor, shares: Tensor) -> None:
    """out[rows[i]] += shares[i] * part[i], product and sum rounded one after the other; rows are all different.

    Args:
        out: [any, hidden]; rows: int32 [n]; part: [n, hidden]; shares: [n].
    """
    count, width = part.shape
    fits("routed", "out", out, (len(out), width))
    fits("routed", "part", part, (count, width))
    row_facts("routed", "rows", rows, count)
    row_facts("routed", "shares", shares, count, torch.float32)
    add_variant().launch((count, triton.cdiv(width, BLOCK)), out, rows, part, shares, width)


routed.recorded = False  # experts' numbers decide what is launched
