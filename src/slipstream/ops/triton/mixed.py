"""Attention of steps in which some requests have many rows and others few: tiles of the former and segments of the latter in one launch.

Owns the order of both among the programs: one among the other, evenly, so that on every multiprocessor some wait for memory while others
keep the tensor cores busy (POD-Attention, arXiv 2410.18038, has them draw lots as they start; here it is by their numbers). Rows of
few are split over their keys as in a step of decoding, and merged by a second kernel. Must not know how the host told them apart
(worker/company.py).
"""

import triton
import triton.language as tl

from slipstream.ops.triton.attend import INDICES, NEAR, SIZES, _apart, _rows, _size, _tile
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.joined import _join


@triton.jit(do_not_specialize=[*SIZES, "entries", "tiles"], do_not_specialize_on_alignment=[*INDICES, "few", "marks"])
def _attend_mixed(
    qkv, keys, values, request, positions, tail_start, tail_slots, page_table, few, marks, sinks, out, tops, mixes,
    rows, entries, tiles, width, max_pages, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, page_size: tl.constexpr,
    query_rows: tl.constexpr, few_rows: tl.constexpr, block_keys: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    turns: tl.constexpr, has_window: tl.constexpr, has_cap: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    """few: numbers of the rows of few, -1 behind the last [entries]; marks: by row, whether it is one of these. few_rows: query_rows of
    their tiles; turns: programs that share their segments; tiles: of rows, as many as the step fills."""
    await_turn()
    number = tl.program_id(0)
    before = number * tiles // tl.num_programs(0)  # programs of tiles among those before this one
    if (number + 1) * tiles // tl.num_programs(0) > before:
        row = (tiles - 1 - before) * (query_rows * kv_heads // heads)  # the last ones, which see most, come first
        bound = tl.minimum(row + query_rows * kv_heads // heads, rows)
        while row < bound:
            near = row + tl.arange(0, query_rows) // (heads // kv_heads)
            row = tl.min(tl.where(tl.load(marks + near, mask=near < bound, other=1) == 0, near, bound), axis=0)
            if row < bound:
                own = tl.load(request + row)
                row = _tile(
                    row, bound, own, 0, qkv, keys, values, request, positions, tail_start, tail_slots,
                    page_table + own.to(tl.int64) * max_pages, sinks, out, tops, mixes, width, window, segments, scale, cap,
                    heads, kv_heads, head_dim, block_dim, page_size, query_rows, block_keys, segment_keys, most,
                    False, has_window, has_cap, has_sinks, "segment",
                )  # fmt: skip
    else:
        entry = (number - before) % entries
        row = tl.load(few + entry)
        if row >= 0:
            tile: tl.constexpr = few_rows * kv_heads // heads
            begin = entry - entry % NEAR
            past = begin + tl.arange(0, NEAR)
            others = tl.load(few + past, mask=past < entry, other=0)
            own, size = tl.load(request + row), _size(tl.load(positions + row), segment_keys, most)
            parted = _apart(request, positions, others, others, past < entry, own, size, segment_keys, most)
            if (entry - tl.max(tl.where(parted, past + 1, begin), axis=0)) % tile == 0:
                seats = entry + tl.arange(0, few_rows) // (heads // kv_heads)
                here = tl.load(few + seats, mask=seats < tl.minimum(begin + NEAR, entries), other=-1)
                other = _apart(request, positions, here, here, here >= 0, own, size, segment_keys, most) | (here < 0)
                after = tl.min(tl.where(other, seats, entry + tile), axis=0)
                _rows(
                    here, seats, seats < after, row, row + after - entry, size, 0, False, (number - before) // entries, turns,
                    qkv, keys, values, positions, tail_start, tail_slots, page_table + own.to(tl.int64) * max_pages, out, out, tops,
                    mixes, width, window, segments, scale, cap, heads, kv_heads, head_dim, block_dim, page_size, few_rows, block_keys,
                    True, has_window, has_cap, False, "segment",
                )  # fmt: skip


@triton.jit(do_not_specialize=["window", "segments"], do_not_specialize_on_alignment=["few", "positions", "sinks"])
def _merge_few(
    few, positions, tops, mixes, sinks, out, window, segments,
    heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    warps: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    """joined.py's `_merge` of the rows of few."""
    await_turn()
    row = tl.load(few + tl.program_id(0))
    if row >= 0:
        _join(
            row, tl.program_id(0), positions, tops, mixes, sinks, out, window, segments,
            heads, head_dim, block_dim, segment_keys, most, warps, has_sinks,
        )  # fmt: skip
