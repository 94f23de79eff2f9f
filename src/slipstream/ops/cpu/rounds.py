"""Ops of rounds: where rows lie and how many guesses were right. See ops/reference/rounds.py."""

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.ops.cpu.checks import fits, integers

_native = native.module


def lay_out(
    places: Tensor, noises: Tensor, seats: Tensor, table: Tensor, page_size: int, spare: int, each: int, out: Tensor,
    offset: int = 0, tokens: Tensor | None = None,
) -> None:  # fmt: skip
    """Lays out passes of `each` rows per request in out [passes, 6, rows or more]."""
    requests, (passes, _, most), op = len(places), out.shape, "lay_out"
    read = (0, 0) if tokens is None else (fits(op, "tokens", tokens, tuple(tokens.shape), torch.int32), tokens.shape[1])
    _native.lay_out(
        requests * each, integers(op, "places", places, requests), integers(op, "noises", noises, requests),
        integers(op, "seats", seats, requests), fits(op, "table", table, tuple(table.shape), torch.int32), *table.shape, page_size, spare,
        each, offset, passes, fits(op, "out", out, (passes, 6, most), torch.int32), most, *read,
    )  # fmt: skip


def walk(
    said: Tensor, tokens: Tensor, starts: Tensor, read: Tensor, turns: Tensor, picked: Tensor, history: Tensor, each: int
) -> None:  # fmt: skip
    """Keeps of each request's guesses, tokens [each or more, requests or more], those that were right."""
    requests, op = len(starts), "walk"
    _native.walk(
        requests * each, integers(op, "said", said, requests * each), fits(op, "tokens", tokens, tuple(tokens.shape), torch.int32),
        tokens.shape[1], integers(op, "starts", starts, requests), integers(op, "read", read, requests),
        integers(op, "turns", turns, requests), integers(op, "picked", picked, requests), each,
        fits(op, "history", history, tuple(history.shape), torch.int32), *history.shape,
    )  # fmt: skip
