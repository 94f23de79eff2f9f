"""Rounds: where rows lie and how many guesses were right, so that the host need not wait for what was drawn (ops/reference/rounds.py).
Owns their kernels: one program per request, of a layout per request and pass."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts

_FACTS = ["places", "noises", "seats", "tokens", "out"]


@triton.jit(
    do_not_specialize=["pages", "page_size", "spare", "each", "offset", "most", "tokens_most"], do_not_specialize_on_alignment=_FACTS
)
def _lay_out(
    places, noises, seats, table, tokens, out, pages, page_size, spare, each, offset, most, tokens_most,
    reads: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    await_turn()
    request, turn = tl.program_id(0), tl.program_id(1)
    depth = tl.arange(0, block)
    inside = depth < each
    begin, seat = tl.load(places + request), tl.load(seats + request)
    place = begin + offset + turn + depth
    asked = inside & (begin >= 0) & (place >= 0) & (place < pages * page_size)
    place = tl.where(asked, place, 0)
    page = tl.load(table + seat * pages + place // page_size, mask=asked, other=0)
    slot = tl.where(asked, page * page_size + place % page_size, spare)
    drawn = tl.where(asked, tl.load(noises + request) + 1 + turn + depth, 0)
    at = out + turn * 6 * most + request * each + depth
    if reads:
        tl.store(at, tl.load(tokens + depth * tokens_most + request, mask=inside, other=0), mask=inside)
    tl.store(at + most, place, mask=inside)
    tl.store(at + 2 * most, slot, mask=inside)
    tl.store(at + 3 * most, tl.where(asked, seat, 0), mask=inside)
    tl.store(at + 4 * most, place + 1, mask=inside)
    tl.store(at + 5 * most, drawn, mask=inside)


@triton.jit(
    do_not_specialize=["each", "tokens_most", "width"],
    do_not_specialize_on_alignment=["said", "tokens", "starts", "read", "turns", "picked", "history"],
)
def _walk(said, tokens, starts, read, turns, picked, history, each, tokens_most, width, block: tl.constexpr):
    await_turn()
    request = tl.program_id(0)
    depth = tl.arange(0, block)
    drawn = tl.load(said + request * each + depth, mask=depth < each, other=0)
    guessed = depth < each - 1
    guess = tl.load(tokens + (depth + 1) * tokens_most + request, mask=guessed, other=0)
    right = tl.min(tl.where(guessed & (drawn == guess), block, depth), axis=0)  # the first that was wrong; each - 1 at most
    tl.store(picked + request, request * each + right)
    start, turn = tl.load(starts + request), tl.load(turns + request)
    if start >= 0:
        line = history + turn * width + request * (each + 1)
        tl.store(line, right + 1)
        tl.store(line + 1 + depth, drawn, mask=depth < each)
        tl.store(tokens + request, tl.sum(tl.where(depth == right, drawn, 0), axis=0))
        tl.store(starts + request, start + right + 1)
        tl.store(read + request, tl.load(read + request) + right + 1)
        tl.store(turns + request, turn + 1)


@cache
def layout_variant(block: int, reads: bool) -> Variant:
    """The form for up to `block` rows of a request, a power of two, whose tokens are laid out too or not."""
    return Variant(_lay_out, {"reads": reads, "block": block}, ("*i32",) * 6 + ("i32",) * 7, warps=1)


@cache
def walk_variant(block: int) -> Variant:
    """The form for up to `block` rows of a request, a power of two."""
    return Variant(_walk, {"block": block}, ("*i32",) * 7 + ("i32",) * 3, warps=1)


def lay_out(
    places: Tensor, noises: Tensor, seats: Tensor, table: Tensor, page_size: int, spare: int, each: int, out: Tensor,
    offset: int = 0, tokens: Tensor | None = None,
) -> None:  # fmt: skip
    """Lays out passes of `each` rows per request in out [passes, 6, rows or more]."""
    requests, (passes, _, most), op = len(places), out.shape, "lay_out"
    facts = [row_facts(op, name, one, requests) for name, one in (("places", places), ("noises", noises), ("seats", seats))]
    _whole(op, out=out)
    fits(op, "table", table, table.shape, torch.int32)
    reads = tokens is not None
    if reads:
        _whole(op, tokens=tokens)
    made = layout_variant(power_of_two(each), reads)
    read = tokens if reads else out
    made.launch(
        (requests, passes), *facts, table, read, out, table.shape[1], page_size, spare, each, offset, most, read.shape[-1]
    )  # fmt: skip


def walk(
    said: Tensor, tokens: Tensor, starts: Tensor, read: Tensor, turns: Tensor, picked: Tensor, history: Tensor, each: int
) -> None:  # fmt: skip
    """Keeps of each request's guesses, tokens [each or more, requests or more], those that were right."""
    requests, op = len(starts), "walk"
    row_facts(op, "said", said, requests * each)
    for name, one in (("starts", starts), ("read", read), ("turns", turns), ("picked", picked)):
        row_facts(op, name, one, requests)
    _whole(op, tokens=tokens, history=history)
    made = walk_variant(power_of_two(each))
    made.launch((requests,), said, tokens, starts, read, turns, picked, history, each, tokens.shape[1], history.shape[1])


def _whole(op: str, **tensors: Tensor) -> None:
    """InputError unless they are contiguous and int32; read number by number, they need no alignment."""
    for name, one in tensors.items():
        row_facts(op, name, one.view(-1) if one.is_contiguous() else one, one.numel())
