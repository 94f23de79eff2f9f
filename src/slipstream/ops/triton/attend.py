"""The kernel of paged attention: `_attend` computes tiles of rows over segments of keys; what is in parts joined.py joins.

Owns their arithmetic and why a row's bits depend on that row only. Must not know which form serves which call (attention.py).

One program is a tile of neighbouring rows of one request, one key/value head with all query heads that share it, and every
`splits`-th segment of keys. All is read on the device. Up to the first tail slot of the tile a key lies at the same place for
all rows, so these blocks of keys are met by all rows at once; what follows is gone through row by row, each by its own slots.

Why a row's bits depend on that row only:
  * Segments have 512 keys, for rows beyond 32 k keys doubled until 64 of them hold the row (a form may have other numbers). Key p of a
    row is always in segment p // size, block p // KEYS and lane p mod KEYS; only rows with segments of one size share a tile. Within a
    segment blocks go left to right from scratch. A block that is there only for a neighbour is all -inf for this row: its maximum stays,
    its weights are exactly 0 and the old sums are multiplied by exactly 1. (A later key's infinity or NaN would show, as 0 * inf; a sound
    model has none.)
  * Tiles of a form always have the same size, missing rows being padding, and the rows of a matrix product do not mix. The size of
    a page and the window only decide which addresses are read and what is masked.
  * Segments merge left to right by written-out FMAs, in registers or from the workspace by the second kernel, to the same bits.
Forms of fast settings may do without some of this (`base`). "row": a program does not part its keys into segments but has one running
maximum. "none" (FlashDecoding++, arXiv 2311.01282, without its calibration): scores are taken as powers of two as they are, no maximum is
looked for and no sum is scaled again; fp32 and bf16 have the exponents for it. Where a row's mass then is not within 1 / SOUND .. SOUND,
its tile goes through its keys once more as in "row".
The matrix products take the cache's type (queries and weights are rounded to bf16 for a bf16 cache) and sum in fp32. Of an e4m3
cache they take codes widened to fp16, which one instruction does exactly for two of them, and queries and weights rounded to fp16. The
scale of a key is multiplied to its score, that of a value, made LIFT times greater, to its weight: so weights of small values are no
subnormal numbers of fp16.

What makes it fast: where a block's keys lie is looked up while the block before is computed, so that the copies of keys and values
depend on nothing but registers and may run `stages - 1` blocks ahead; places past a row's end are its last key's, so that copies
need no mask.
"""

import math

import triton
import triton.language as tl

from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.elementary import tanh
from slipstream.ops.types import SCALE_BYTES

LOG2E = math.log2(math.e)
DOUBLINGS = 6  # how often segments are doubled, that a row has at most so many; 64 of 512 keys become enough for 2 M, then there are more
_LOG2E = tl.constexpr(LOG2E)
_SCALE = tl.constexpr(SCALE_BYTES)
LIFT = tl.constexpr(256.0)
GREATEST = tl.constexpr(65504.0)  # number of fp16
INDICES = ["request", "positions", "tail_start", "tail_slots", "page_table", "sinks"]
SIZES = ["rows", "width", "max_pages", "window", "segments"]
NEAR = tl.constexpr(64)  # rows among which a tile's program looks for the first of its request; no tile reaches over a multiple of it
_DOUBLINGS = tl.constexpr(DOUBLINGS)
SOUND = tl.constexpr(2.0**60)  # a row's mass that needs no maximum lies within 1 / SOUND .. SOUND


@triton.jit
def _shares(top, new_top):
    """The greater of two parts' greatest scores, and the factors of the parts: 1 and 0 where one is empty (its greatest is -inf)."""
    greatest = tl.maximum(top, new_top)
    base = tl.where(greatest == float("-inf"), 0.0, greatest)
    return greatest, tl.exp2(top - base), tl.exp2(new_top - base)


@triton.jit
def _size(position, segment_keys: tl.constexpr, most: tl.constexpr):
    """Keys of a segment of a row at `position`: doubled until that many segments hold it, so that a row's parts have a bound."""
    size = tl.zeros_like(position) + segment_keys
    for _ in tl.static_range(_DOUBLINGS):
        size = tl.where(position >= size * most, size * 2, size)
    return size


@triton.jit
def _apart(owners, positions, entries, rows, there, own, size, segment_keys: tl.constexpr, most: tl.constexpr):
    """Whether rows that are there belong to another than `own`, or have segments of another size. owners: of entries."""
    others = tl.load(owners + entries, mask=there, other=-1) != own
    return there & (others | (_size(tl.load(positions + rows, mask=there, other=0), segment_keys, most) != size))


@triton.jit
def _over(x, size: tl.constexpr):
    """x // size of numbers that are not negative: without a sign it is a shift."""
    return (x.to(tl.uint32) // size).to(tl.int32)


@triton.jit
def _rest(x, size: tl.constexpr):
    return (x.to(tl.uint32) % size).to(tl.int32)


@triton.jit
def _lookup(page_table, tail_slots, key, linear, page_size: tl.constexpr, has_tails: tl.constexpr):
    """The pages of keys that are there; with tails their slots, page * page_size + offset: keys from `linear` on are tail slots."""
    if has_tails:
        page = tl.load(page_table + _over(key, page_size), mask=key < linear, other=0)
        tail = tl.load(tail_slots + (key - linear), mask=key >= linear, other=0)
        return tl.where(key < linear, page * page_size + _rest(key, page_size), tail)
    return tl.load(page_table + _over(key, page_size))


@triton.jit
def _within(key, first, last, has_window: tl.constexpr):
    """Keys that may be read: past the ends, where all is masked, the first and the last again, so that copies need no mask."""
    key = tl.minimum(key, last)
    return tl.maximum(key, first) if has_window else key


@triton.jit
def _scores(
    q, keys, values, found, place, block, page_table, tail_slots, first, last, linear, lowest, position, full, scale, cap,
    kv_heads: tl.constexpr, head_dim: tl.constexpr, page_size: tl.constexpr,
    has_tails: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr,
):  # fmt: skip
    """Scores and values of a block of keys, what the numbers of a value are worth, and where the block after it lies.

    found, place: the block's keys and what `_lookup` says of them. full: the blocks before it are seen by all rows, as a whole.
    """
    column = tl.arange(0, q.shape[1])
    offset = _rest(place if has_tails else found, page_size)
    page = _over(place, page_size) if has_tails else place
    coded: tl.constexpr = keys.dtype.element_ty == tl.float8e4nv
    size: tl.constexpr = kv_heads * page_size * (head_dim + (_SCALE if coded else 0))  # of a page
    cell = page.to(tl.int64)[:, None] * size + (offset[:, None] * head_dim + column[None, :])
    if q.shape[1] == head_dim:
        k = tl.load(keys + cell)
        v = tl.load(values + cell)
    else:
        k = tl.load(keys + cell, mask=(column < head_dim)[None, :], other=0.0)
        v = tl.load(values + cell, mask=(column < head_dim)[None, :], other=0.0)
    worth = 1.0
    if coded:
        scales = page.to(tl.int64) * (size // _SCALE) + (page_size * head_dim // _SCALE + offset)
        key_worth = tl.load(keys.to(tl.pointer_type(tl.float32)) + scales)
        worth = tl.load(values.to(tl.pointer_type(tl.float32)) + scales) * LIFT
        k, v = k.to(tl.float16), v.to(tl.float16)
    key = block * found.shape[0] + tl.arange(0, found.shape[0])
    found = _within(key + found.shape[0], first, last, has_window)
    place = _lookup(page_table, tail_slots, found, linear, page_size, has_tails)
    score = tl.dot(q, tl.trans(k), input_precision="ieee")  # [query rows, keys]
    if coded:
        score = score * key_worth[None, :]
    if has_cap:
        score = tanh(score * scale) * cap
    if has_window:
        score = tl.where((key[None, :] <= position[:, None]) & (key[None, :] >= lowest[:, None]), score, float("-inf"))
    elif block >= full:
        score = tl.where(key[None, :] <= position[:, None], score, float("-inf"))
    return score, v, worth, found, place


@triton.jit
def _add(top, mass, mix, score, v, worth, factor, coded: tl.constexpr, unified: tl.constexpr):
    """Greatest score, mass and mixed values of a segment with a block of keys added; score * factor is in powers of two."""
    if unified:
        weight = tl.exp2(score * factor)
        return top, mass + tl.sum(weight, axis=1), tl.dot(weight.to(v.dtype), v, mix, input_precision="ieee")
    new_top = tl.maximum(top, tl.max(score, axis=1) * factor)
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    old = tl.exp2(top - base)
    weight = tl.exp2(tl.fma(score, tl.zeros_like(score) + factor, tl.broadcast_to(-base[:, None], score.shape)))
    mass = tl.fma(mass, old, tl.sum(weight, axis=1))
    if coded:
        weight = weight * worth[None, :]
    return new_top, mass, tl.dot(weight.to(v.dtype), v, mix * old[:, None], input_precision="ieee")


@triton.jit
def _closed(top, mass, mix, whole_top, whole_mass, whole_mix):
    """The segments so far with one more behind them."""
    whole_top, a, b = _shares(whole_top, top)
    whole_mass = tl.fma(whole_mass, a, mass * b)
    return whole_top, whole_mass, tl.fma(whole_mix, tl.broadcast_to(a[:, None], mix.shape), mix * b[:, None])


@triton.jit
def _tile(
    row, bound, own, elsewhere, qkv, keys, values, request, positions, tail_start, tail_slots, page_table, sinks, out, tops, mixes,
    width, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, page_size: tl.constexpr,
    query_rows: tl.constexpr, block_keys: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    in_parts: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr, has_sinks: tl.constexpr, base: tl.constexpr,
):  # fmt: skip
    """Computes the rows of request `own` from `row` on, before `bound` and as many as a tile has; returns the row after them.

    elsewhere: how many of their first keys others meet (together.py): segments that are full of these are left out.
    """
    here = row + tl.arange(0, query_rows) // (heads // kv_heads)
    size = _size(tl.load(positions + row), segment_keys, most)
    other = _apart(request, positions, here, here, here < bound, own, size, segment_keys, most) | (here >= bound)
    after = tl.min(tl.where(other, here, tl.minimum(bound, row + query_rows * kv_heads // heads)), axis=0)
    _rows(
        here, here, here < after, row, after, size, elsewhere // size, False, tl.program_id(2), tl.num_programs(2), qkv, keys, values,
        positions, tail_start, tail_slots, page_table, sinks, out, tops, mixes, width, window, segments, scale, cap,
        heads, kv_heads, head_dim, block_dim, page_size, query_rows, block_keys, in_parts, has_window, has_cap, has_sinks, base,
    )  # fmt: skip
    return after


@triton.jit
def _rows(
    here, seats, live, row, after, size, edge, before: tl.constexpr, turn, turns, qkv, keys, values, positions, tail_start, tail_slots,
    page_table, sinks, out, tops, mixes, width, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, page_size: tl.constexpr,
    query_rows: tl.constexpr, block_keys: tl.constexpr, in_parts: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr,
    has_sinks: tl.constexpr, base: tl.constexpr,
):  # fmt: skip
    """Computes the rows `here` that are `live`: their segments before number `edge`, all of which they see, or from it on.

    seats: where in the workspace their parts go. turn, turns: number of this program among those that share these segments.
    row, after: what is after `edge` may have tail slots; then the rows are all from `row` to before `after`.
    """
    group: tl.constexpr = heads // kv_heads
    head = tl.program_id(1)
    member = tl.arange(0, query_rows) // group
    position = tl.load(positions + here, mask=live, other=-1)
    if before:
        last, by_page = edge * size - 1, edge * size
    else:
        tails = tl.load(tail_start + here + 1, mask=live, other=0) - tl.load(tail_start + here, mask=live, other=0)
        last = tl.max(position, axis=0)
        by_page = tl.min(tl.where(tails > 0, position + 1 - tails, last + 1), axis=0)  # keys before it lie at one place for all rows
    lowest = tl.maximum(position - window + 1, 0) if has_window else tl.zeros_like(position)
    first = tl.min(tl.where(live, lowest, last), axis=0)
    full = (tl.min(tl.where(live, position, last), axis=0) + 1) // block_keys

    column, query = tl.arange(0, block_dim), head * group + tl.arange(0, query_rows) % group
    cells = live[:, None] & (column < head_dim)[None, :]
    place = here.to(tl.int64)[:, None] * width + query[:, None] * head_dim + column[None, :]
    coded: tl.constexpr = keys.dtype.element_ty == tl.float8e4nv
    q = tl.load(qkv + place, mask=cells, other=0.0)
    q = tl.minimum(tl.maximum(q, -GREATEST), GREATEST).to(tl.float16) if coded else q.to(keys.dtype.element_ty)
    result = here.to(tl.int64) * heads + query  # [query rows], row of out as [rows * heads, head_dim]
    keys += head * (page_size * (head_dim + (_SCALE if coded else 0)))
    values += head * (page_size * (head_dim + (_SCALE if coded else 0)))
    start = first // size if before else tl.maximum(first // size, edge)
    share = tl.cdiv(last // size + 1 - start, turns)  # segments of this program
    start += turn * share
    stop = tl.minimum(start + share, last // size + 1)
    if in_parts:
        for segment in range(start, stop):
            top, mass, mix = _met(
                q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position,
                full, segment, segment + 1, size, window, scale, cap, kv_heads, head_dim, page_size, block_keys, True, has_window, has_cap,
                base,
            )  # fmt: skip
            part = (seats.to(tl.int64) * heads + query) * segments + segment
            tl.store(tops + part * 2, top, mask=live)
            tl.store(tops + part * 2 + 1, mass, mask=live)
            tl.store(mixes + part[:, None] * head_dim + column[None, :], mix, mask=cells)
    else:
        whole_top, whole_mass, whole_mix = _met(
            q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position,
            full, start, stop, size, window, scale, cap, kv_heads, head_dim, page_size, block_keys, False, has_window, has_cap, base,
        )  # fmt: skip
        if has_sinks:
            whole_top, a, b = _shares(whole_top, tl.load(sinks + query) * _LOG2E)
            whole_mass, whole_mix = tl.fma(whole_mass, a, b), whole_mix * a[:, None]
        divisor = tl.where(live, whole_mass, 1.0)
        tl.store(out + result[:, None] * head_dim + column[None, :], tl.div_rn(whole_mix, divisor[:, None]), mask=cells)


@triton.jit
def _met(
    q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position, full,
    start, stop, size, window, scale, cap,
    kv_heads: tl.constexpr, head_dim: tl.constexpr, page_size: tl.constexpr, block_keys: tl.constexpr,
    one_segment: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr, base: tl.constexpr,
):  # fmt: skip
    """What `_keys` finds, by the form's `base`."""
    top, mass, mix = _keys(
        q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position, full,
        start, stop, size, window, scale, cap,
        kv_heads, head_dim, page_size, block_keys, one_segment or base != "segment", has_window, has_cap, base == "none",
    )  # fmt: skip
    if base == "none":
        top = tl.zeros_like(mass)
        sees = (position >= start * size) & (lowest < stop * size)  # any of these keys; nobody asks for what others have here
        if tl.max((sees & ~((mass >= 1 / SOUND) & (mass <= SOUND))).to(tl.int32), axis=0) > 0:
            top, mass, mix = _keys(
                q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position,
                full, start, stop, size, window, scale, cap,
                kv_heads, head_dim, page_size, block_keys, True, has_window, has_cap, False,
            )  # fmt: skip
    return top, mass, mix


@triton.jit
def _keys(
    q, keys, values, positions, tail_start, tail_slots, page_table, row, after, member, first, last, by_page, lowest, position, full,
    start, stop, size, window, scale, cap,
    kv_heads: tl.constexpr, head_dim: tl.constexpr, page_size: tl.constexpr, block_keys: tl.constexpr,
    one_segment: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr, unified: tl.constexpr,
):  # fmt: skip
    """Greatest score, mass and mixed values of the segments start .. stop - 1, merged. One loop over all, so that copies do not pause.

    one_segment: they are one, or need no merging. unified: without the greatest.
    """
    blocks, factor = size // block_keys, 1.0 if has_cap else scale
    coded: tl.constexpr = keys.dtype.element_ty == tl.float8e4nv
    begin, end = tl.maximum(first // block_keys, start * blocks), tl.minimum(last // block_keys + 1, stop * blocks)
    joint = tl.where(by_page > last, end, tl.minimum(tl.maximum(by_page // block_keys, begin), end))  # met by all rows at once before it
    empty_top = tl.full([q.shape[0]], float("-inf"), tl.float32)
    empty_mass = tl.zeros([q.shape[0]], tl.float32)
    empty_mix = tl.zeros(q.shape, tl.float32)
    top, mass, mix = empty_top, empty_mass, empty_mix
    whole_top, whole_mass, whole_mix = empty_top, empty_mass, empty_mix
    lane = tl.arange(0, block_keys)
    found = tl.maximum(tl.minimum(begin * block_keys + lane, last), first)
    place = _lookup(page_table, tail_slots, found, 0, page_size, False)
    for block in range(begin, joint):
        score, v, worth, found, place = _scores(
            q, keys, values, found, place, block, page_table, tail_slots, first, last, 0, lowest, position, full, scale, cap,
            kv_heads, head_dim, page_size, False, has_window, has_cap,
        )  # fmt: skip
        if not one_segment and (block > begin) & (block & (blocks - 1) == 0):
            whole_top, whole_mass, whole_mix = _closed(top, mass, mix, whole_top, whole_mass, whole_mix)
            top, mass, mix = empty_top, empty_mass, empty_mix
        top, mass, mix = _add(top, mass, mix, score, v, worth, factor, coded, unified)

    opened = (tl.maximum(joint, begin + 1) - 1) // blocks
    for segment in range(opened, (end - 1) // blocks + 1):
        if not one_segment:  # by a choice of values: a sum set to zeros here would make ptxas run wgmma one by one
            fresh = segment > opened
            top, mass, mix = tl.where(fresh, empty_top, top), tl.where(fresh, empty_mass, mass), tl.where(fresh, empty_mix, mix)
        for number in range(tl.where(joint < end, after - row, 0)):
            to = tl.load(positions + row + number)
            tail = tl.load(tail_start + row + number)
            linear = to + 1 + tail - tl.load(tail_start + row + number + 1)
            lower = tl.maximum(to - window + 1, 0) if has_window else 0
            alone = tl.where(member == number, position, -1)
            own_begin = tl.maximum(joint, segment * blocks)
            found = tl.maximum(tl.minimum(own_begin * block_keys + lane, to), lower)
            place = _lookup(page_table, tail_slots + tail, found, linear, page_size, True)
            for block in range(own_begin, tl.minimum(to // block_keys + 1, tl.minimum(end, segment * blocks + blocks))):
                score, v, worth, found, place = _scores(
                    q, keys, values, found, place, block, page_table, tail_slots + tail, lower, to, linear, lowest, alone, 0, scale, cap,
                    kv_heads, head_dim, page_size, True, has_window, has_cap,
                )  # fmt: skip
                top, mass, mix = _add(top, mass, mix, score, v, worth, factor, coded, unified)
        if one_segment:
            whole_top, whole_mass, whole_mix = top, mass, mix
        else:
            whole_top, whole_mass, whole_mix = _closed(top, mass, mix, whole_top, whole_mass, whole_mix)
    return whole_top, whole_mass, whole_mix * (1 / LIFT) if coded else whole_mix


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=INDICES)
def _attend(
    qkv, keys, values, request, positions, tail_start, tail_slots, page_table, sinks, out, tops, mixes,
    rows, width, max_pages, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, page_size: tl.constexpr,
    query_rows: tl.constexpr, block_keys: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    by_row: tl.constexpr, in_parts: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr, has_sinks: tl.constexpr,
    base: tl.constexpr,
):  # fmt: skip
    await_turn()
    tile: tl.constexpr = query_rows * kv_heads // heads
    if by_row:  # a program for each row: those that begin a tile, counted from the first row of the request
        row = tl.program_id(0)
        begin = row - row % NEAR
        near = begin + tl.arange(0, NEAR)
        own = tl.load(request + row)
        size = _size(tl.load(positions + row), segment_keys, most)
        other = _apart(request, positions, near, near, near < row, own, size, segment_keys, most)
        if (row - tl.max(tl.where(other, near + 1, begin), axis=0)) % tile == 0:
            _tile(
                row, tl.minimum(begin + NEAR, rows), own, 0, qkv, keys, values, request, positions, tail_start, tail_slots,
                page_table + own.to(tl.int64) * max_pages, sinks, out, tops, mixes, width, window, segments, scale, cap,
                heads, kv_heads, head_dim, block_dim, page_size, query_rows, block_keys, segment_keys, most,
                in_parts, has_window, has_cap, has_sinks, base,
            )  # fmt: skip
    else:  # a program for each `tile` rows, whoever they belong to; the last ones, which see most, come first
        row = (tl.num_programs(0) - 1 - tl.program_id(0)) * tile
        bound = tl.minimum(row + tile, rows)
        while row < bound:
            own = tl.load(request + row)
            row = _tile(
                row, bound, own, 0, qkv, keys, values, request, positions, tail_start, tail_slots,
                page_table + own.to(tl.int64) * max_pages, sinks, out, tops, mixes, width, window, segments, scale, cap,
                heads, kv_heads, head_dim, block_dim, page_size, query_rows, block_keys, segment_keys, most,
                in_parts, has_window, has_cap, has_sinks, base,
            )  # fmt: skip
