"""Paged attention over ragged rows: the op, its forms and how many programs share a row.

Owns the choice of a form (BY_ROWS, ONE) and the grid, both by shapes only, so that a step may be recorded and replayed; the tables of
fast settings are data (tuned/), the kernels attend.py's. A form is a size of tiles and blocks; within a form a row's bits depend on that
row only (attend.py says why).

The fast profile takes the form by the number of rows: few rows are short of bytes in flight, many of tensor cores. Deterministic
settings take ONE for every call, so that a row has the same bits in prefill and in decode.

Soft caps and sinks are variants of the same kernels: a cap bounds scores before the mask, a sink is one more part, merged last, that
has a mass and no values.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton import attend, mixed, together
from slipstream.ops.triton.attend import LOG2E
from slipstream.ops.triton.launch import Variant, fits, fitting_cache, power_of_two, row_facts, type_name
from slipstream.ops.triton.tuned import ByName, Ranges
from slipstream.ops.types import KV, SEGMENT, AttentionRows


@dataclass(frozen=True, slots=True)
class Form:
    """One size of the kernel.

    Attributes:
        query_rows: rows of the step times heads of a group per program; 64 is what wgmma takes, below it is products of single warps.
        block_keys: keys per block; half of it for wide heads in fp32 and for very wide ones, which would not fit.
        warps: threads of a program / 32; up to 8 and twice as many for very wide heads where their sums would not fit into registers.
        stages: blocks that are computed or on their way at a time.
        fill: programs that keep an H200 busy; with fewer rows their segments go to programs of their own.
        segment: keys of a segment of short rows; a power of two, at least block_keys.
        group_rows: query_rows of tiles of rows that share keys (together.py); 0: each request's rows read all by themselves.
        few_rows: query_rows of tiles of rows that stand almost alone in a step of many (mixed.py); 0: such steps are cut into tiles of one
            size, whoever they belong to.
        most: segments that a row is to have; longer rows have longer ones.
        merging: warps that merge the segments of a row's head, the more of them the more segments at a time.
    """

    query_rows: int
    block_keys: int
    warps: int
    stages: int
    fill: int = 528
    segment: int = SEGMENT
    group_rows: int = 0
    few_rows: int = 0
    most: int = 64
    merging: int = 1


MANY = Form(64, 64, 4, 3, 264)
IN_FP32 = Form(16, 64, 4, 3)  # for caches in fp32, whatever the rows: their products have no tensor cores
Forms = tuple[tuple[int, Form, Form], ...]
# Fast settings, by `attention_forms`: (most rows, form, that with tail slots); and the same for caches in e4m3, of which a block has half
# the bytes, and whose codes are widened between memory and products.
BY_ROWS, CODED = (Ranges(name, ({"form": Form}, {"with_tails": Form})) for name in ("attention", "attention_coded"))
# cache -> form of steps with rows that share keys (`shared_prefix`), and of steps from BY_TILE rows on in which some stand almost alone
# (`hybrid_attention`).
TOGETHER, MIXED = (ByName(name, ("*bf16", "*fp8e4nv"), Form) for name in ("together", "mixed"))
ONE = ((1 << 31, MANY, MANY),)  # deterministic settings
ONE_CODED = ((1 << 31, replace(MANY, warps=8), replace(MANY, warps=8)),)
MOST_PARTS = 256 << 20  # bytes of scratch for which such steps are worth it
TURNS = 4  # programs that share the segments of such a row
BY_TILE = 512  # rows from which on programs go by tiles: most rows then are neighbours of one request, and one program each idles
WAYS = {"by row": {}, "by row in parts": {"in_parts": True}, "by tile": {"by_row": False}}  # in which a form is compiled
PAGE = 16  # tokens of a page where nothing else is said


@cache
def variant(
    heads: int, kv_heads: int, head_dim: int, cache_type: str, form: Form = MANY, page_size: int = PAGE,
    by_row: bool = True, in_parts: bool = False, has_window: bool = False, has_cap: bool = False, has_sinks: bool = False,
    out: str = "*fp32",
) -> Variant:  # fmt: skip
    """The variant for these heads, a cache ("*fp32", "*bf16" or "*fp8e4nv") and results of these types."""
    block_dim = power_of_two(head_dim, 16)
    wide, very_wide = block_dim > 64, block_dim > 128
    full = very_wide and (form.query_rows >= 64 or cache_type == "*fp8e4nv")
    warps = min(8, 2 * form.warps) if full else form.warps if wide else min(form.warps, 4)
    constants = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "block_dim": block_dim,
        "page_size": page_size,
        "query_rows": power_of_two(heads // kv_heads, form.query_rows),
        "block_keys": form.block_keys // (2 if wide and cache_type == "*fp32" else 1) // (2 if very_wide else 1),
        "segment_keys": form.segment,
        "most": form.most,
        "by_row": by_row,
        "in_parts": in_parts,
        "has_window": has_window,
        "has_cap": has_cap,
        "has_sinks": has_sinks,
    }
    types = ("*fp32", cache_type, cache_type, *["*i32"] * 5, "*fp32", out, "*fp32", "*fp32", *["i32"] * 5, "fp32", "fp32")
    return Variant(attend._attend, constants, types, warps=warps, stages=form.stages)


@cache
def together_variant(
    heads: int, kv_heads: int, head_dim: int, cache_type: str, form: Form, page_size: int = PAGE, has_window: bool = False,
    has_cap: bool = False, out: str = "*fp32",
) -> Variant:  # fmt: skip
    """The variant for steps with rows that share keys; it leaves parts for `merge_variant`."""
    plain = variant(heads, kv_heads, head_dim, cache_type, form, page_size, True, True, has_window, has_cap, False, out)
    constants = {name: value for name, value in plain.constants.items() if name not in ("by_row", "in_parts", "has_sinks")}
    constants["group_rows"] = power_of_two(heads // kv_heads, form.group_rows)
    types = (*plain.types[:8], *["*i32"] * 3, *plain.types[9:])
    return replace(plain, kernel=together._attend_together, constants=constants, types=types)


@cache
def mixed_variant(
    heads: int, kv_heads: int, head_dim: int, cache_type: str, form: Form, page_size: int = PAGE, has_window: bool = False,
    has_cap: bool = False, has_sinks: bool = False, out: str = "*fp32",
) -> Variant:  # fmt: skip
    """The variant for steps with rows of few and of many; it leaves parts of the former for `merge_variant`."""
    plain = variant(heads, kv_heads, head_dim, cache_type, form, page_size, False, False, has_window, has_cap, has_sinks, out)
    constants = {name: value for name, value in plain.constants.items() if name not in ("by_row", "in_parts")}
    constants |= {"few_rows": power_of_two(heads // kv_heads, form.few_rows), "turns": TURNS}
    types = (*plain.types[:8], "*i32", "*i32", *plain.types[8:12], "i32", "i32", *plain.types[12:])
    return replace(plain, kernel=mixed._attend_mixed, constants=constants, types=types)


@cache
def merge_variant(
    heads: int, head_dim: int, form: Form = MANY, has_sinks: bool = False, out: str = "*fp32", some: bool = False
) -> Variant:
    """The variant that merges what the programs of `variant` left in the workspace; some: what those of `mixed_variant` left."""
    constants = {
        "heads": heads, "head_dim": head_dim, "block_dim": power_of_two(head_dim), "segment_keys": form.segment, "most": form.most,
        "warps": form.merging, "has_sinks": has_sinks,
    }  # fmt: skip
    types = ("*i32", "*fp32", "*fp32", "*fp32", out, "i32", "i32")
    if some:
        return Variant(mixed._merge_few, constants, ("*i32", *types), warps=form.merging)
    return Variant(attend._merge, constants, types, warps=form.merging)


def coded(forms: Forms) -> Forms:
    """What stands for a table where caches are in e4m3."""
    if forms is BY_ROWS.now:
        return CODED.now
    return ONE_CODED if forms == ONE else forms


@cache
def sharing() -> dict[tuple[Forms, str], Form]:
    """(table, cache) -> form of steps with rows that share keys."""
    return {(BY_ROWS.now, kind): form for kind, form in TOGETHER.now.items()}


@cache
def mixing() -> dict[tuple[Forms, str], Form]:
    """The same of steps from BY_TILE rows on in which some stand almost alone."""
    return {(BY_ROWS.now, kind): form for kind, form in MIXED.now.items()}


def form_of(forms: Forms, rows: int, tails: int, cache_type: str, before: dict[tuple[Forms, str], Form] | None = None) -> Form:
    """The form for this many rows and tail slots; one slot may stand for none, since a tensor must have an address.

    before: what is asked first, `sharing` or `mixing`.
    """
    if before and (forms, cache_type) in before:
        return before[forms, cache_type]
    if cache_type == "*fp32":
        return IN_FP32
    forms = coded(forms) if cache_type == "*fp8e4nv" else forms
    return next(draft if tails > 1 else plain for most, plain, draft in forms if rows <= most)


def shipped(cache_type: str) -> list[tuple[Form, str]]:
    """Every form and way that a cache of this type may ask for."""
    tables = [coded(forms) if cache_type == "*fp8e4nv" else forms for forms in (BY_ROWS.now, ONE)]
    table = ((1 << 31, IN_FP32, IN_FP32),) if cache_type == "*fp32" else [entry for entries in tables for entry in entries]
    reached = [(form, way) for most, *pair in table for form in pair for way in WAYS if way != "by tile" or most >= BY_TILE]
    return list(dict.fromkeys(reached))


def splits(form: Form, rows: int, kv_heads: int, segments: int) -> int:
    """How many programs share a row, each with every so many-th segment: 1, or as many as fill the machine. By shapes only."""
    return max(1, min(segments, form.fill // max(1, rows * kv_heads)))


def segments_of(form: Form, keys: int) -> int:
    """The most segments that a row of up to so many keys has: attend.py doubles them where rows are long."""
    return min(triton.cdiv(keys, form.segment), max(form.most, triton.cdiv(keys, form.segment << attend.DOUBLINGS)))


def workspace_bytes(form: Form, rows: int, heads: int, kv_heads: int, head_dim: int, max_len: int) -> int:
    """Scratch of a call with this many rows and page tables that reach `max_len` positions."""
    segments = segments_of(form, max_len)
    return 0 if splits(form, rows, kv_heads, segments) == 1 else parts_bytes(rows, heads, segments, head_dim)


def parts_bytes(rows: int, heads: int, segments: int, head_dim: int) -> int:
    """Scratch for the parts of so many rows."""
    return rows * heads * segments * (head_dim + 2) * 4


def attention(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, *, forms: Forms | None = None
) -> None:
    """out [rows, heads * head_dim] = softmax(scale * q k^T) v over the keys that `rows` names, `window` of them at most (0: all).

    The form, the grid and the workspace follow from shapes: rows, heads and the width of the page table.

    Args:
        qkv: q is the first heads * head_dim columns. [rows, any width]
        scale: factor of the scores, positive.
        out: fp32, or bf16, to which the result is rounded.
        forms: which form serves how many rows; None: the table of fast settings.
    """
    _run(qkv, kv, rows, heads, scale, window, out, forms)


def attention_softcap(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float, *, forms: Forms | None = None
) -> None:
    """`attention` with scores s bounded to cap * tanh(s / cap); cap > 0."""
    if not cap > 0:
        raise InputError(f"attention_softcap: cap={cap} must be above 0")
    _run(qkv, kv, rows, heads, scale, window, out, forms, cap=cap)


def attention_sinks(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor, *,
    forms: Forms | None = None,
) -> None:  # fmt: skip
    """`attention` where each head's softmax has one more score, sinks [heads], that has no value."""
    _run(qkv, kv, rows, heads, scale, window, out, forms, sinks=row_facts("attention_sinks", "sinks", sinks, heads, torch.float32))


def _run(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, forms: Forms | None, cap: float = 0.0,
    sinks: Tensor | None = None,
) -> None:  # fmt: skip
    count, width = qkv.shape
    (_, kv_heads, page_size, _), head_dim = kv.keys.shape, kv.head_dim
    kind, made = _check(qkv, kv, rows, heads, scale, window, out)
    max_pages = rows.page_table.shape[1]
    by_row = count < BY_TILE
    company, few = rows.company if by_row else None, None if by_row else rows.few
    before = sharing() if company else mixing() if few else None
    form = form_of(BY_ROWS.now if forms is None else forms, count, rows.tail_slots.shape[0], kind, before)
    segments = segments_of(form, max_pages * page_size + rows.tail_slots.shape[0])
    seats = few.members.shape[0] if few else count  # rows that have parts
    fitting = parts_bytes(seats, heads, segments, head_dim) <= MOST_PARTS
    company, few = company if fitting and form.group_rows else None, few if fitting and form.few_rows else None
    programs = splits(form, count, kv_heads, segments)
    tops, mixes = qkv, qkv  # not touched where a row has one program
    if company or few or programs > 1:
        tops = torch.empty(seats, heads, segments, 2, device=out.device)
        mixes = torch.empty(seats, heads, segments, head_dim, device=out.device)
    drains, factor = qkv if sinks is None else sinks, scale / cap if cap else scale * LOG2E
    inputs = (qkv, kv.keys, kv.values, rows.request, rows.positions, rows.tail_start, rows.tail_slots, rows.page_table)
    sizes = (width, max_pages, window, segments, factor, cap * LOG2E)
    of, special = (heads, kv_heads, head_dim, kind, form, page_size), {"has_window": window > 0, "has_cap": cap > 0, "out": made}
    merges = merge_variant(heads, head_dim, form, sinks is not None, made, few is not None)
    parts = (tops, mixes, drains, out, window, segments)
    if few:
        chosen = mixed_variant(*of, has_sinks=sinks is not None, **special)
        tiles = triton.cdiv(count, chosen.constants["query_rows"] * kv_heads // heads)
        across = tiles + seats * TURNS
        chosen.launch((across, kv_heads), *inputs, few.members, few.marks, drains, out, tops, mixes, count, seats, tiles, *sizes)
        merges.launch((seats, heads), few.members, rows.positions, *parts)
        return
    if company:
        chosen = together_variant(*of, **special)
        tiles = triton.cdiv(count, chosen.constants["group_rows"] * kv_heads // heads)  # if all rows share their keys
        grid, groups = (2 * count, kv_heads, splits(form, tiles, kv_heads, segments)), (company.members, company.groups, company.shared)
        chosen.launch(grid, *inputs, *groups, out, tops, mixes, count, *sizes)
    else:
        chosen = variant(*of, by_row, programs > 1, has_sinks=sinks is not None, **special)
        across = count if by_row else triton.cdiv(count, chosen.constants["query_rows"] * kv_heads // heads)
        chosen.launch((across, kv_heads, programs), *inputs, drains, out, tops, mixes, count, *sizes)
    if company or programs > 1:
        merges.launch((count, heads), rows.positions, *parts)


def _check(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> tuple[str, str]:
    """The types of the cache and of the result as Triton calls them; InputError unless the kernels can take these arguments."""
    count, width = qkv.shape
    kv_heads, head_dim = kv.keys.shape[1], kv.head_dim
    if not scale > 0 or window < 0 or width < heads * head_dim or heads % kv_heads:
        raise InputError(
            f"attention: scale={scale}, window={window}, qkv width {width}, heads={heads}: need scale > 0, window >= 0, "
            f"width >= {heads * head_dim}, heads a multiple of {kv_heads}"
        )
    kind = fitting_cache("attention", kv)
    fits("attention", "qkv", qkv, (count, width))
    made = type_name("attention", "out", fits("attention", "out", out, (count, heads * head_dim), out.dtype))
    for name, length in (("request", count), ("positions", count), ("linear", count), ("tail_start", count + 1)):
        row_facts("attention", name, getattr(rows, name), length)
    row_facts("attention", "tail_slots", rows.tail_slots, rows.tail_slots.shape[0])
    if rows.company is not None:
        for name in ("members", "groups", "shared"):
            row_facts("attention", f"company.{name}", getattr(rows.company, name), count)
    if rows.few is not None:
        row_facts("attention", "few.members", rows.few.members, rows.few.members.shape[0])
        row_facts("attention", "few.marks", rows.few.marks, count)
    fits("attention", "page_table", rows.page_table, rows.page_table.shape, torch.int32)
    return kind, made
