"""Company: which rows of a step share the pages of their first keys, so that attention may read these once for all of them, and which
stand almost alone beside requests of many rows, so that it may split these over their keys.

Owns the search and what a group must be to be worth it. The search looks at page tables only: where two have the same page at one place
they have the same before it, since a page belongs to one text (cache/tables.py). So a place is found by bisection, for all requests at
once. A group shares what its least alike member shares: within it nobody looks for smaller groups that share more. Must not know kernels.
"""

from collections.abc import Sequence

import numpy as np

from slipstream.ops.staging import Staging
from slipstream.ops.types import Company, Few

LEAST_KEYS, LEAST_ROWS = 512, 4  # that a group shares and has
ALMOST_ALONE = 4  # most rows of a request that count as few


class Companies:
    """The search, with buffers for steps of up to `max_rows` rows."""

    def __init__(self, max_rows: int, page_size: int, device: str):
        self._page_size = page_size
        self._staged = Staging((3, max_rows), np.int32, device)  # members, groups, shared
        self._made: dict[int, Company] = {}

    def find(
        self, table: np.ndarray, seats: Sequence[int], starts: Sequence[int], counts: Sequence[int], size: int
    ) -> Company | None:
        """The groups of a step, on the device; None if there are none.

        Args:
            table: page tables. [slots, max_pages]
            seats: the row of the table of each request. [requests]
            starts: how many of its keys lay in the cache before this step. [requests]
            counts: how many rows it has; they follow each other, request by request. [requests]
            size: rows that the step is run with, those included that nobody asked for.
        """
        found = groups(table, np.asarray(seats), np.asarray(starts), np.asarray(counts), self._page_size)
        if found is None:
            return None
        host = self._staged.host[:, :size]
        host[:] = [[0], [-1], [0]]
        members, numbers, shared = found
        host[0, : len(members)], host[1, : len(members)], host[2, members] = members, numbers, shared
        device = self._staged.upload()
        if size not in self._made:
            self._made[size] = Company(*device[:, :size])
        return self._made[size]


class Alone:
    """Tells rows of few, with buffers for steps of up to `max_rows` rows of so many requests."""

    def __init__(self, max_rows: int, requests: int, device: str):
        self._members = Staging((ALMOST_ALONE * requests,), np.int32, device)
        self._marks = Staging((max_rows,), np.int32, device)

    def find(self, counts: Sequence[int], size: int) -> Few:
        """The rows of requests that have few; arguments as of `Companies.find`."""
        marks, members = self._marks.host[:size], self._members.host
        marks[:], members[:] = 0, -1
        of = np.asarray(counts)
        marks[: of.sum()] = np.repeat(of <= ALMOST_ALONE, of)
        found = np.flatnonzero(marks)
        members[: len(found)] = found
        return Few(self._members.upload(), self._marks.upload()[:size])


def groups(
    table: np.ndarray, seats: np.ndarray, starts: np.ndarray, counts: np.ndarray, page_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Rows that are in a group, group by group, the number of the group of each, and how many keys it shares; None if there are none.

    Arguments as of `Companies.find`.
    """
    least, full = -(-LEAST_KEYS // page_size), starts // page_size  # pages; a page that is full is never written again
    able = np.flatnonzero(full >= least)
    if len(able) < 2 or counts[able].sum() < LEAST_ROWS:
        return None
    marks = table[seats[able], least - 1]
    order = np.argsort(marks, kind="stable")
    marks, able = marks[order], able[order]  # requests, those that begin alike beside each other
    begins = np.flatnonzero(np.diff(marks, prepend=marks[0] - 1))
    sizes = np.diff(begins, append=len(able))  # requests of a group
    chosen = (sizes > 1) & (np.add.reduceat(counts[able], begins) >= LEAST_ROWS)
    if not chosen.any():
        return None
    able, sizes = able[np.repeat(chosen, sizes)], sizes[chosen]
    begins = np.cumsum(sizes) - sizes
    first = np.repeat(able[begins], sizes)  # of its group, beside each
    low, high = np.full(len(able), least), np.minimum(full[able], full[first])
    while (low < high).any():
        middle = (low + high + 1) // 2
        same = table[seats[able], middle - 1] == table[seats[first], middle - 1]
        low, high = np.where(same, middle, low), np.where(same, high, middle - 1)
    shared = np.repeat(np.minimum.reduceat(low, begins) * page_size, sizes)
    rows = counts[able]
    members = np.arange(rows.sum()) + np.repeat((np.cumsum(counts) - counts)[able] - (np.cumsum(rows) - rows), rows)
    return members, np.repeat(np.repeat(np.arange(len(sizes)), sizes), rows), np.repeat(shared, rows)
