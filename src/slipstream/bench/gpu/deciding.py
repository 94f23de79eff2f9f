"""From times to tables: the fastest form per number of rows, joined to what a table says already.

Owns the rule, for all tables alike. Must not know a case: cases say in samples what their rows mean.

At a number of rows that was timed, a form replaces the one of the table if it is right everywhere, was timed wherever that one was with
the same company, takes at least WIN less time in the mean, and in no group LOSS more; so a form that the table names and nobody timed
stays. What was timed between the kernels of a step outweighs what was timed alone. A number of rows speaks for those below it, down to
the next one that was timed or the bound of the table's entry; the greatest of all also for those above, in the last entry, as far as
the form takes them. All other rows keep what the table says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from slipstream.ops.triton.tuned import ALL, ByName, Ranges, Table, takes

WIN, LOSS = 0.02, 0.1
TABLE = object()  # the way that the table has
Steps = tuple[tuple[int, Any], ...]  # (up to how many rows, way)


@dataclass(frozen=True, slots=True)
class Sample:
    """One time of one way.

    Attributes:
        table: its name.
        rows: for which the time speaks.
        way: a way of the table; TABLE; of ByName of numbers whether it is done.
        us: microseconds.
        group, part: what was timed, such as a model and a layer of it. Times of a group are added, groups count alike.
        column: of Ranges; of ByName the name.
        among: which forms were timed against each other there; one that was timed with other company is not missed.
        times: how often the part is in the group: times are added so many times.
        right: whether the results were.
        in_step: timed between other kernels, as in a step.
        decides: False: only whether it is right counts.
    """

    table: str
    rows: int
    way: Any
    us: float
    group: str
    part: str = ""
    column: int | str = 0
    among: str = ""
    times: float = 1.0
    right: bool = True
    in_step: bool = False
    decides: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """What a decision replaces, with the times of both in microseconds, added over what was timed."""

    table: str
    column: int | str
    above: int
    most: int
    old: Any
    new: Any
    old_us: float
    new_us: float


def decide(table: Table, entries: Any, samples: Sequence[Sample]) -> tuple[Any, list[Change]]:
    """The entries of a table as `samples` of it have it, and what is not as in `entries`."""
    of = {column: [one for one in samples if one.column == column] for column in dict.fromkeys(one.column for one in samples)}
    if isinstance(table, Ranges):
        columns, changes = [], []
        for number in range(len(table.columns)):
            steps = tuple((most, ways[number]) for most, *ways in entries)
            found = _changes(steps, of.get(number, ()))
            columns.append(_joined(steps, found))
            changes += found
        bounds = sorted({most for column in columns for most, _ in column})
        return tuple((most, *(_at(column, most) for column in columns)) for most in bounds), changes
    return _by_name(table, entries, of)


def _by_name(table: ByName, entries: dict[str, Any], of: dict[str, list[Sample]]) -> tuple[dict[str, Any], list[Change]]:
    out, changes = dict(entries), []
    for name, samples in of.items():
        numbers, now = table.kind is int, entries.get(name)
        steps = (*(((now, True),) if now else ()), (ALL, False)) if numbers else ((ALL, now),)
        found = _changes(steps, samples)
        changes += found
        [(most, first), *_] = _joined(steps, found)
        if numbers and first:  # not above what was timed
            first = most if most < ALL else max(one.rows for one in samples)
        out.pop(name, None)
        if first:
            out[name] = first
    return out, changes


def _changes(steps: Steps, samples: Iterable[Sample]) -> list[Change]:
    samples = list(samples)
    wrong = {one.way for one in samples if not one.right}
    counts = sorted({one.rows for one in samples if one.decides})
    out = []
    for before, rows in pairwise((0, *counts)):
        now = _at(steps, rows)
        won = _winner(now, [one for one in samples if one.rows == rows and one.decides], wrong)
        if won is None:
            continue
        below, most = max(most for most, _ in ((0, None), *steps) if most < rows), next(most for most, _ in steps if rows <= most)
        reach = min(takes(won[0]), ALL) if most == ALL and rows == counts[-1] else rows
        out.append(Change(samples[0].table, samples[0].column, max(before, below), reach, now, *won))
    return out


def _winner(now: Any, samples: list[Sample], wrong: set) -> tuple[Any, float, float] | None:
    """(way, time of the one there is, its own) of what replaces `now`."""
    times: dict[Any, dict[tuple[str, ...], Sample]] = {}
    in_step = any(one.in_step for one in samples if one.way in (now, TABLE))
    for one in samples:
        if one.in_step == in_step:
            times.setdefault(now if one.way is TABLE else one.way, {}).setdefault((one.among, one.group, one.part), one)
    timed = times.get(now, {})
    best, least = None, 1.0 if now in wrong else 1.0 - WIN
    for way, found in times.items():
        missed = {key[0] for key in timed if key not in found}
        own = {key: one for key, one in timed.items() if key[0] not in missed}
        if way == now or way in wrong or not own:
            continue
        shares = _shares(own, found)
        cost = sum(shares) / len(shares)
        if cost <= least and max(shares) <= 1 + LOSS or best is None and now in wrong:
            best, least = (way, *(sum(of[key].us * one.times for key, one in own.items()) for of in (own, found))), cost
    return best


def _shares(own: dict, found: dict) -> list[float]:
    """Time as a share of that of `own`, for each group."""
    shares = []
    for group in dict.fromkeys(key[:2] for key in own):
        keys = [key for key in own if key[:2] == group]
        shares.append(sum(found[key].us * own[key].times for key in keys) / sum(own[key].us * own[key].times for key in keys))
    return shares


def _joined(steps: Steps, changes: list[Change]) -> Steps:
    """`steps` with the changes, neighbours that are equal as one."""
    bounds = sorted({*(most for most, _ in steps), *(bound for change in changes for bound in (change.above, change.most) if bound)})
    found = []
    for most in bounds:
        way = next((change.new for change in changes if change.above < most <= change.most), _at(steps, most))
        if found and found[-1][1] == way:
            found.pop()
        found.append((most, way))
    return tuple(found)


def _at(steps: Steps, rows: int) -> Any:
    return next(way for most, way in steps if rows <= most)
