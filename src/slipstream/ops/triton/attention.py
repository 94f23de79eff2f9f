"""Paged attention over ragged rows: prefill, decode and tree rows by one compiled kernel.

Owns two kernels, and how many programs share a row. One program is a tile of neighbouring rows, one key/value head with all
query heads that share it, and every `splits`-th segment of 512 keys. Rows share a tile only if they belong to the same request
and have no tail slots, for then a key's place is the same for all; a row with tail slots is alone. All is read on the device.

Why a row's bits depend on that row only:
  * One compiled form per (heads, head_dim, cache type), for prefill and decode, every page size, window and split. Tiles always
    have the same size, missing rows being padding, and the rows of a matrix product do not mix.
  * Key p of a row is always in segment p // 512, block p // KEYS and lane p mod KEYS. Within a segment blocks go left to
    right from scratch. A block that is there only for a neighbour is all -inf for this row: its maximum stays, its weights are
    exactly 0 and the old sums are multiplied by exactly 1. (A later key's infinity or NaN would show, as 0 * inf; a sound model
    has none.)
  * Segments merge left to right by written-out FMAs, in registers or from the workspace by the second kernel, to the same bits.
The matrix products take the cache's type (queries and weights are rounded to bf16 for a bf16 cache) and sum in fp32.

Soft caps and sinks are forms of the same kernels: a cap bounds scores before the mask, a sink is one more part, merged last, that
has a mass and no values.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.elementary import tanh
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts, type_name
from slipstream.ops.types import KV, SEGMENT, AttentionRows

LOG2E = math.log2(math.e)
_LOG2E = tl.constexpr(LOG2E)
KEYS = 64  # keys per block within a segment; half of it for wide heads in fp32 and for very wide ones, which would not fit into registers
ROWS = {"*bf16": 64, "*fp32": 16}  # query rows (rows of the step times heads of a group) per program: 64 is what wgmma takes
FILL = 264  # programs that keep an H200 busy, two per multiprocessor; with fewer, segments go to programs of their own
INDICES = ["request", "positions", "linear", "tail_start", "tail_slots", "page_table", "sinks"]
SIZES = ["rows", "width", "max_pages", "page_size", "window", "segments"]


@triton.jit
def _shares(top, new_top):
    """The greater of two parts' greatest scores, and the factors of the parts: 1 and 0 where one is empty (its greatest is -inf)."""
    greatest = tl.maximum(top, new_top)
    base = tl.where(greatest == float("-inf"), 0.0, greatest)
    return greatest, tl.exp2(top - base), tl.exp2(new_top - base)


@triton.jit
def _segment(
    q, keys, values, page_table, tail_slots, first, last, linear, lowest, position, scale, cap, head, begin, end, page_size,
    kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, block_keys: tl.constexpr, has_cap: tl.constexpr,
):  # fmt: skip
    """Greatest score, mass and mixed values of the key blocks begin .. end - 1, from scratch; scores are in powers of two."""
    column = tl.arange(0, block_dim)
    top = tl.full([q.shape[0]], float("-inf"), tl.float32)
    mass = tl.zeros([q.shape[0]], tl.float32)
    mix = tl.zeros([q.shape[0], block_dim], tl.float32)
    for block in range(begin, end):
        key = block * block_keys + tl.arange(0, block_keys)
        there = (key >= first) & (key <= last)
        page = tl.load(page_table + key // page_size, mask=there & (key < linear), other=0)
        tail = tl.load(tail_slots + (key - linear), mask=there & (key >= linear), other=0)
        page, offset = tl.where(key < linear, page, tail // page_size), tl.where(key < linear, key % page_size, tail % page_size)
        line = (page.to(tl.int64) * kv_heads + head) * page_size + offset
        cell = line[:, None] * head_dim + column[None, :]
        inside = there[:, None] & (column < head_dim)[None, :]
        k = tl.load(keys + cell, mask=inside, other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [query rows, keys]
        if has_cap:
            score = tanh(score) * cap
        seen = (key[None, :] >= lowest[:, None]) & (key[None, :] <= position[:, None])
        score = tl.where(seen, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, axis=1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        old = tl.exp2(top - base)
        weight = tl.exp2(score - base[:, None])
        mass = tl.fma(mass, old, tl.sum(weight, axis=1))
        v = tl.load(values + cell, mask=inside, other=0.0)
        mix = tl.dot(weight.to(q.dtype), v, mix * old[:, None], input_precision="ieee")
        top = new_top
    return top, mass, mix


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=INDICES)
def _attend(
    qkv, keys, values, request, positions, linear, tail_start, tail_slots, page_table, sinks, out, tops, mixes,
    rows, width, max_pages, page_size, window, segments, scale, cap,
    heads: tl.constexpr, kv_heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr,
    query_rows: tl.constexpr, block_keys: tl.constexpr, segment_keys: tl.constexpr, has_cap: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    group: tl.constexpr = heads // kv_heads
    tile: tl.constexpr = query_rows // group
    row, head, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(2)
    own = tl.load(request + row)
    before = tl.load(request + row - 1, mask=row % tile != 0, other=-1)
    tail = tl.load(tail_start + row)
    tails = tl.load(tail_start + row + 1) - tail
    tails_before = tail - tl.load(tail_start + row - 1, mask=row % tile != 0, other=0)
    if (before == own) & (tails == 0) & (tails_before == 0):
        return  # a row before this one has it in its tile

    line = tl.arange(0, query_rows)
    member = line // group
    here = row + member
    inside = (here < rows) & (here < row - row % tile + tile) & (member < tile)
    more = tl.load(tail_start + here + 1, mask=inside, other=0) - tl.load(tail_start + here, mask=inside, other=0)
    same = (tl.load(request + here, mask=inside, other=-1) == own) & (more == 0) & (tails == 0)
    live = inside & (same | (member == 0))
    position = tl.load(positions + here, mask=live, other=-1)
    lowest = tl.where(window > 0, tl.maximum(position - window + 1, 0), 0)
    last = tl.max(position, axis=0)
    first = tl.min(tl.where(live, lowest, last), axis=0)
    by_page = tl.where(tails == 0, last + 1, tl.load(linear + row))  # keys before it are found through the page table

    column, query = tl.arange(0, block_dim), head * group + line % group
    cells = live[:, None] & (column < head_dim)[None, :]
    place = here.to(tl.int64)[:, None] * width + query[:, None] * head_dim + column[None, :]
    q = tl.load(qkv + place, mask=cells, other=0.0).to(keys.dtype.element_ty)
    whole_top = tl.full([query_rows], float("-inf"), tl.float32)
    whole_mass = tl.zeros([query_rows], tl.float32)
    whole_mix = tl.zeros([query_rows, block_dim], tl.float32)
    result = here.to(tl.int64) * heads + query  # [query rows], row of out as [rows * heads, head_dim]
    for segment in range(first // segment_keys + tl.program_id(2), last // segment_keys + 1, splits):
        begin = tl.maximum(first, segment * segment_keys) // block_keys
        end = tl.minimum(last, segment * segment_keys + segment_keys - 1) // block_keys + 1
        top, mass, mix = _segment(
            q, keys, values, page_table + own.to(tl.int64) * max_pages, tail_slots + tail, first, last, by_page, lowest, position,
            scale, cap, head, begin, end, page_size, kv_heads, head_dim, block_dim, block_keys, has_cap,
        )  # fmt: skip
        if splits > 1:
            part = result * segments + segment
            tl.store(tops + part * 2, top, mask=live)
            tl.store(tops + part * 2 + 1, mass, mask=live)
            tl.store(mixes + part[:, None] * head_dim + column[None, :], mix, mask=cells)
        else:
            whole_top, a, b = _shares(whole_top, top)
            whole_mass = tl.fma(whole_mass, a, mass * b)
            whole_mix = tl.fma(whole_mix, tl.broadcast_to(a[:, None], whole_mix.shape), mix * b[:, None])
    if splits == 1:
        if has_sinks:
            whole_top, a, b = _shares(whole_top, tl.load(sinks + query) * _LOG2E)
            whole_mass, whole_mix = tl.fma(whole_mass, a, b), whole_mix * a[:, None]
        divisor = tl.where(live, whole_mass, 1.0)
        tl.store(out + result[:, None] * head_dim + column[None, :], tl.div_rn(whole_mix, divisor[:, None]), mask=cells)


@triton.jit(do_not_specialize=["window", "segments"], do_not_specialize_on_alignment=["positions", "sinks"])
def _merge(
    positions, tops, mixes, sinks, out, window, segments,
    heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, segment_keys: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    position = tl.load(positions + tl.program_id(0))
    result = tl.program_id(0).to(tl.int64) * heads + tl.program_id(1)
    lowest = tl.where(window > 0, tl.maximum(position - window + 1, 0), 0)
    column = tl.arange(0, block_dim)
    inside = column < head_dim
    whole_top = tl.full([1], float("-inf"), tl.float32)
    whole_mass = tl.zeros([1], tl.float32)
    whole_mix = tl.zeros([block_dim], tl.float32)
    for segment in range(lowest // segment_keys, position // segment_keys + 1):
        part = result * segments + segment
        whole_top, a, b = _shares(whole_top, tl.load(tops + part * 2 + tl.arange(0, 1)))
        mix = tl.load(mixes + part * head_dim + column, mask=inside, other=0.0)
        whole_mass = tl.fma(whole_mass, a, tl.load(tops + part * 2 + 1 + tl.arange(0, 1)) * b)
        whole_mix = tl.fma(whole_mix, tl.broadcast_to(a, whole_mix.shape), mix * b)
    if has_sinks:
        whole_top, a, b = _shares(whole_top, tl.load(sinks + tl.program_id(1) + tl.arange(0, 1)) * _LOG2E)
        whole_mass, whole_mix = tl.fma(whole_mass, a, b), whole_mix * tl.broadcast_to(a, whole_mix.shape)
    tl.store(out + result * head_dim + column, tl.div_rn(whole_mix, tl.broadcast_to(whole_mass, whole_mix.shape)), mask=inside)


@cache
def variant(
    heads: int, kv_heads: int, head_dim: int, cache_type: str, has_cap: bool = False, has_sinks: bool = False, out: str = "*fp32"
) -> Variant:
    """The form for these heads, a cache and results of these types, "*fp32" or "*bf16"."""
    block_dim = power_of_two(head_dim, 16)
    wide = block_dim > 64
    constants = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "block_dim": block_dim,
        "query_rows": power_of_two(heads // kv_heads, ROWS[cache_type]),
        "block_keys": KEYS // (2 if wide and cache_type == "*fp32" else 1) // (2 if block_dim > 128 else 1),
        "segment_keys": SEGMENT,
        "has_cap": has_cap,
        "has_sinks": has_sinks,
    }
    types = ("*fp32", cache_type, cache_type, *["*i32"] * 6, "*fp32", out, "*fp32", "*fp32", *["i32"] * 6, "fp32", "fp32")
    return Variant(_attend, constants, types, warps=8 if wide and cache_type == "*bf16" else 4, stages=3)


@cache
def merge_variant(heads: int, head_dim: int, has_sinks: bool = False, out: str = "*fp32") -> Variant:
    """The form that merges what the programs of `variant` left in the workspace."""
    constants = {
        "heads": heads, "head_dim": head_dim, "block_dim": power_of_two(head_dim), "segment_keys": SEGMENT, "has_sinks": has_sinks
    }  # fmt: skip
    return Variant(_merge, constants, ("*i32", "*fp32", "*fp32", "*fp32", out, "i32", "i32"), warps=1, stages=4)


def splits(rows: int, kv_heads: int, segments: int) -> int:
    """How many programs share a row: 1, or one per segment where rows are too few to fill the machine. By shapes only."""
    return 1 if rows * kv_heads >= FILL else segments


def workspace_bytes(rows: int, heads: int, kv_heads: int, head_dim: int, max_len: int) -> int:
    """Scratch of a call with this many rows and page tables that reach `max_len` positions; greatest just below FILL / kv_heads rows."""
    segments = -(-max_len // SEGMENT)
    return 0 if splits(rows, kv_heads, segments) == 1 else rows * heads * segments * (head_dim + 2) * 4


def attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> None:
    """out [rows, heads * head_dim] = softmax(scale * q k^T) v over the keys that `rows` names, `window` of them at most (0: all).

    The grid and the workspace follow from shapes: rows, heads and the width of the page table.

    Args:
        qkv: q is the first heads * head_dim columns. [rows, any width]
        scale: factor of the scores, positive.
        out: fp32, or bf16, to which the result is rounded.
    """
    _run(qkv, kv, rows, heads, scale, window, out)


def attention_softcap(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float) -> None:
    """`attention` with scores s bounded to cap * tanh(s / cap); cap > 0."""
    if not cap > 0:
        raise InputError(f"attention_softcap: cap={cap} must be above 0")
    _run(qkv, kv, rows, heads, scale, window, out, cap=cap)


def attention_sinks(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor) -> None:
    """`attention` where each head's softmax has one more score, sinks [heads], that has no value."""
    _run(qkv, kv, rows, heads, scale, window, out, sinks=row_facts("attention_sinks", "sinks", sinks, heads, torch.float32))


def _run(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float = 0.0,
    sinks: Tensor | None = None,
) -> None:  # fmt: skip
    count, width = qkv.shape
    _, kv_heads, page_size, head_dim = shape = kv.keys.shape
    if not scale > 0 or window < 0 or width < heads * head_dim or heads % kv_heads:
        raise InputError(
            f"attention: scale={scale}, window={window}, qkv width {width}, heads={heads}: need scale > 0, window >= 0, "
            f"width >= {heads * head_dim}, heads a multiple of {kv_heads}"
        )
    kind = type_name("attention", "kv.keys", kv.keys)
    fits("attention", "qkv", qkv, (count, width))
    fits("attention", "kv.keys", kv.keys, shape, kv.keys.dtype)
    fits("attention", "kv.values", kv.values, shape, kv.keys.dtype)
    made = type_name("attention", "out", fits("attention", "out", out, (count, heads * head_dim), out.dtype))
    for name, length in (("request", count), ("positions", count), ("linear", count), ("tail_start", count + 1)):
        row_facts("attention", name, getattr(rows, name), length)
    row_facts("attention", "tail_slots", rows.tail_slots, rows.tail_slots.shape[0])
    max_pages = rows.page_table.shape[1]
    fits("attention", "page_table", rows.page_table, (rows.page_table.shape[0], max_pages), torch.int32)
    segments = triton.cdiv(max_pages * page_size + rows.tail_slots.shape[0], SEGMENT)
    programs = splits(count, kv_heads, segments)
    tops, mixes = qkv, qkv  # not touched where a row has one program
    if programs > 1:
        tops = torch.empty(count, heads, segments, 2, device=out.device)
        mixes = torch.empty(count, heads, segments, head_dim, device=out.device)
    drains, factor = qkv if sinks is None else sinks, scale / cap if cap else scale * LOG2E
    variant(heads, kv_heads, head_dim, kind, cap > 0, sinks is not None, made).launch(
        (count, kv_heads, programs), qkv, kv.keys, kv.values, rows.request, rows.positions, rows.linear, rows.tail_start,
        rows.tail_slots, rows.page_table, drains, out, tops, mixes, count, width, max_pages, page_size, window, segments, factor,
        cap * LOG2E,
    )  # fmt: skip
    if programs > 1:
        merges = merge_variant(heads, head_dim, sinks is not None, made)
        merges.launch((count, heads), rows.positions, tops, mixes, drains, out, window, segments)
