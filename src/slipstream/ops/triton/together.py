"""Attention of rows whose first keys are the same, of several requests: the keys are read once for all of them.

Owns who computes which part in such a step: the first half of the programs takes groups of rows over the segments that these share, the
second half each request's rows over the rest. All leave parts of segments, which joined.py's `_merge` joins. Must not know how the
host found the groups (worker/company.py).

A row's bits do not tell. A part of a row is the same whatever rows stand beside it in the tile (attend.py says why), tiles of both
kinds have the blocks of keys of one form, and parts are merged in one order. Where tiles of a group are greater than those of single
requests, so that their products take other instructions, that is proved on a device only: deterministic settings have one size for both.
"""

import triton
import triton.language as tl

from slipstream.ops.triton.attend import INDICES, NEAR, SIZES, _apart, _rows, _size, _tile
from slipstream.ops.triton.chain import await_turn

GROUPS = ["members", "groups", "shared"]


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=INDICES + GROUPS)
def _attend_together(
    qkv, keys, values, request, positions, tail_start, tail_slots, page_table, members, groups, shared, out, tops, mixes,
    rows, width, max_pages, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, page_size: tl.constexpr,
    query_rows: tl.constexpr, group_rows: tl.constexpr, block_keys: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    has_window: tl.constexpr, has_cap: tl.constexpr,
):  # fmt: skip
    """group_rows: query_rows of the tiles of groups."""
    await_turn()
    entry = tl.program_id(0) % rows
    begin = entry - entry % NEAR
    bound = tl.minimum(begin + NEAR, rows)
    near = begin + tl.arange(0, NEAR)
    if tl.program_id(0) < rows:
        group = tl.load(groups + entry)
        if group >= 0:
            row = tl.load(members + entry)
            size = _size(tl.load(positions + row), segment_keys, most)
            before = tl.load(members + near, mask=near < entry, other=0)
            parted = _apart(groups, positions, near, before, near < entry, group, size, segment_keys, most)
            tile: tl.constexpr = group_rows * kv_heads // heads
            if (entry - tl.max(tl.where(parted, near + 1, begin), axis=0)) % tile == 0:
                entries = entry + tl.arange(0, group_rows) // (heads // kv_heads)
                there = entries < bound
                here = tl.load(members + entries, mask=there, other=0)
                other = _apart(groups, positions, entries, here, there, group, size, segment_keys, most) | (entries >= bound)
                after = tl.min(tl.where(other, entries, tl.minimum(bound, entry + tile)), axis=0)
                own = tl.load(request + row)
                _rows(
                    here, here, entries < after, row, row, size, tl.load(shared + row) // size, True, tl.program_id(2), tl.num_programs(2),
                    qkv, keys, values, positions, tail_start, tail_slots, page_table + own.to(tl.int64) * max_pages, out, out, tops, mixes,
                    width, window, segments, scale, cap, heads, kv_heads, head_dim, block_dim, page_size, group_rows, block_keys,
                    True, has_window, has_cap, False, "segment",
                )  # fmt: skip
    else:
        own = tl.load(request + entry)
        size = _size(tl.load(positions + entry), segment_keys, most)
        parted = _apart(request, positions, near, near, near < entry, own, size, segment_keys, most)
        if (entry - tl.max(tl.where(parted, near + 1, begin), axis=0)) % (query_rows * kv_heads // heads) == 0:
            _tile(
                entry, bound, own, tl.load(shared + entry), qkv, keys, values, request, positions, tail_start, tail_slots,
                page_table + own.to(tl.int64) * max_pages, out, out, tops, mixes, width, window, segments, scale, cap,
                heads, kv_heads, head_dim, block_dim, page_size, query_rows, block_keys, segment_keys, most,
                True, has_window, has_cap, False, "segment",
            )  # fmt: skip
