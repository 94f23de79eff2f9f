"""Ops of rounds (worker/rounds.py): where rows lie and how many guesses were right, worked out where the numbers are."""

import torch
from torch import Tensor


def lay_out(
    places: Tensor, noises: Tensor, seats: Tensor, table: Tensor, page_size: int, spare: int, each: int, out: Tensor,
    offset: int = 0, tokens: Tensor | None = None,
) -> None:  # fmt: skip
    """Lays out passes of `each` rows per request, one behind the other; each pass lies one place behind the pass before it.

    Args:
        places: of the first row of each request in the first pass, less `offset`; below 0: nobody asked for its rows. [requests]
        noises: position of the token before the first that is drawn. [requests]
        seats: rows of `table`. [requests]
        table: page ids. [any, pages]
        page_size: slots of a page; `spare`: a slot that is nobody's. Rows that nobody asked for, or that would lie behind the table,
            write there, and stand at position 0 of the first seat.
        out: token, position, slot, seat, keys and position of what is drawn, of each row. [passes, 6, requests * each or more]
        tokens: what the rows read, by depth; None: that is not laid out. [each or more, requests or more]
    """
    requests, passes = len(places), len(out)
    rows = requests * each
    if tokens is not None:
        out[:, 0, :rows] = tokens[:each, :requests].T.flatten()
    steps = torch.arange(passes)[:, None, None] + torch.arange(each)  # [passes, 1, each]
    at = places[:, None] + offset + steps  # [passes, requests, each]
    asked = (places[:, None] >= 0) & (at >= 0) & (at < table.shape[1] * page_size)
    at, seat = at.where(asked, 0), seats[:, None].where(asked, 0)
    slots = (table[seat.long(), (at // page_size).long()] * page_size + at % page_size).where(asked, spare)
    drawn = (noises[:, None] + 1 + steps).where(asked, 0)
    for row, facts in enumerate((at, slots, seat, at + 1, drawn), 1):
        out[:, row, :rows] = facts.flatten(1)


def walk(
    said: Tensor, tokens: Tensor, starts: Tensor, read: Tensor, turns: Tensor, picked: Tensor, history: Tensor, each: int
) -> None:  # fmt: skip
    """Keeps of each request's guesses those that were right, up to the first that was not.

    Args:
        said: what was drawn at its last token and at every guess. [requests * each]
        tokens: these, by depth; the last token becomes the one that was said behind the last right guess. [each or more, requests or more]
        starts, read: positions, which move on by all that was said. A start below 0: nobody asked; it stays. [requests]
        turns: how often it walked before, which is counted on. [requests]
        picked: the row of what was said last. [requests]
        history: of each turn, by request, how many tokens were said, and all that were drawn. [turns, requests * (each + 1) or more]
    """
    requests = len(starts)
    drawn = said.view(requests, each)
    right = (drawn[:, :-1] == tokens[1:each, :requests].T).int().cumprod(1).sum(1)  # [requests]
    picked.copy_(torch.arange(requests) * each + right)
    for request in range(requests):
        if starts[request] >= 0:
            begin, kept = request * (each + 1), int(right[request]) + 1
            line = history[int(turns[request]), begin : begin + each + 1]
            line[0], line[1:] = kept, drawn[request]
            tokens[0, request] = drawn[request, kept - 1]
            starts[request] += kept
            read[request] += kept
            turns[request] += 1
