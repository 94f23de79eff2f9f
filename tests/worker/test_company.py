"""Which rows share keys: the search by bisection against looking at every page of every pair."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slipstream.worker.company import LEAST_KEYS, LEAST_ROWS, Alone, Companies, groups

PAGE = 128
LEAST = LEAST_KEYS // PAGE


@st.composite
def texts(draw):
    """Page tables of requests that branch from each other as a prefix tree has them, and rows of a step."""
    fresh, tables = iter(range(10_000)), []
    for _ in range(draw(st.integers(0, 8))):
        origin = draw(st.sampled_from(tables)) if tables and draw(st.booleans()) else []
        kept = origin[: draw(st.integers(0, 9))]
        tables.append([*kept, *(next(fresh) for _ in range(10 - len(kept)))])
    seats = draw(st.permutations(range(len(tables) + 2)))[: len(tables)]
    starts = [draw(st.integers(0, 10 * PAGE - 1)) for _ in tables]
    counts = [draw(st.integers(1, 3)) for _ in tables]
    table = np.full((len(tables) + 2, 10), -1, np.int32)
    for seat, pages in zip(seats, tables, strict=True):
        table[seat] = pages
    return table, np.array(seats, int), np.array(starts, int), np.array(counts, int)


def by_looking(table, seats, starts, counts):
    """{rows of a group: keys that it shares}"""
    begins, out = np.cumsum(counts) - counts, {}
    full = starts // PAGE
    for mark in {table[seat, LEAST - 1] for seat, own in zip(seats, full, strict=True) if own >= LEAST}:
        group = [i for i, seat in enumerate(seats) if full[i] >= LEAST and table[seat, LEAST - 1] == mark]
        rows = [int(begins[i]) + row for i in group for row in range(counts[i])]
        if len(group) > 1 and len(rows) >= LEAST_ROWS:
            alike = [p for p in range(min(full[group]) + 1) if len({tuple(table[seats[i], :p]) for i in group}) == 1]
            out[frozenset(rows)] = max(alike) * PAGE
    return out


@given(texts())
def test_groups_are_those_that_looking_finds(step):
    found, expected = groups(*step, PAGE), by_looking(*step)
    if found is None:
        assert not expected
        return
    members, numbers, shared = found
    assert {frozenset(members[numbers == number].tolist()): int(keys) for number, keys in zip(numbers, shared, strict=True)} == expected
    assert len(set(members.tolist())) == len(members) and np.all(np.diff(numbers) >= 0), "a row is in one group, groups are in one piece"


def test_rows_that_nobody_asked_for_are_in_no_group():
    table = np.zeros((3, 8), np.int32)
    table[:, 6:] = np.arange(6).reshape(3, 2)
    companies = Companies(16, PAGE, "cpu")
    found = companies.find(table, [2, 0, 1], [7 * PAGE] * 3, [2, 1, 1], 8)
    assert found.members.tolist()[:4] == [0, 1, 2, 3] and found.groups.tolist() == [0] * 4 + [-1] * 4
    assert found.shared.tolist() == [6 * PAGE] * 4 + [0] * 4
    assert companies.find(table, [2, 0], [7 * PAGE] * 2, [2, 1], 8) is None


def test_rows_of_few_are_told_apart_in_every_step_anew():
    alone = Alone(32, 3, "cpu")
    for counts, few in (((1, 9, 4, 5), [0, 10, 11, 12, 13]), ((7, 2), [7, 8]), ((9,), [])):
        found = alone.find(counts, 24)
        assert found.members.tolist() == [*few, *[-1] * (12 - len(few))]
        assert found.marks.tolist() == [int(row in few) for row in range(24)]
