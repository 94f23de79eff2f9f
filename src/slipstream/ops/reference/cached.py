"""Ops on the KV cache: rope + write, attention, moves of token slots."""

import torch
from torch import Tensor

from slipstream.ops.reference.arithmetic import exp, fma, one_thread, total
from slipstream.ops.reference.rows import softcap
from slipstream.ops.types import KV, SCALE_BYTES, SEGMENT, AttentionRows, coded_pages

GREATEST = 448  # number of e4m3


def rope_write(qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, kv: KV, heads: int) -> None:
    """Rotates q and k in place (RoPE, Su et al. 2021, half-split pairs) and writes k and v into the cache, in its type.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], q heads first, then k, then v.
        positions, slots: where each row stands, and where its key and value go. [rows]
        table: cos and sin per position. [max_len, 2, head_dim / 2]
    """
    rows = qkv.shape[0]
    (_, kv_heads, page_size, _), head_dim = kv.keys.shape, kv.head_dim
    parts = qkv.view(rows, heads + 2 * kv_heads, head_dim)
    first, second = parts[:, : heads + kv_heads].split(head_dim // 2, dim=-1)  # views [rows, heads + kv_heads, head_dim / 2]
    cos, sin = table.index_select(0, positions)[:, :, None].unbind(1)  # [rows, 1, head_dim / 2]
    a, b = fma(-second, sin, first * cos), fma(first, sin, second * cos)
    first.copy_(a)
    second.copy_(b)
    page, offset = slots.long() // page_size, slots.long() % page_size
    put(kv.keys, page, offset, parts[:, heads : heads + kv_heads])
    put(kv.values, page, offset, parts[:, heads + kv_heads :])


def put(cached: Tensor, page: Tensor, offset: Tensor, heads: Tensor) -> None:
    """Writes keys or values [rows, kv_heads, head_dim] to their places [rows] in a layer's cache, in its type."""
    if cached.dtype is not torch.float8_e4m3fn:
        cached[page, :, offset] = stored(heads, cached.dtype)
        return
    codes, scales = coded_pages(cached)
    codes[page, :, offset], scales[page, :, offset] = coded(heads)


def coded(heads: Tensor) -> tuple[Tensor, Tensor]:
    """Keys or values [..., head_dim] as the bytes of e4m3 codes and a scale for each [...]; 0 where all are 0."""
    scale = heads.abs().amax(-1) / GREATEST
    codes = torch.where(scale[..., None] == 0, 0.0, heads / scale[..., None]).clamp_(-GREATEST, GREATEST)
    return codes.to(torch.float8_e4m3fn).view(torch.uint8), scale


def taken(cached: Tensor, page: Tensor, offset: Tensor) -> tuple[Tensor, Tensor | None]:
    """The keys or values at these places [n], [n, kv_heads, head_dim], and what their numbers are worth, [n, kv_heads, 1], or None."""
    if cached.dtype is not torch.float8_e4m3fn:
        return fetched(cached[page, :, offset])
    codes, scales = coded_pages(cached)
    return codes[page, :, offset].view(torch.float8_e4m3fn).float(), scales[page, :, offset][..., None]


def stored(heads: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [rows, kv_heads, head_dim] as a cache keeps them; in int8 with the scale's bytes behind them; not in e4m3."""
    if dtype is not torch.int8:
        return heads.to(dtype)
    scale = heads.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale == 0, 0.0, torch.round(heads / scale)).clamp_(-127, 127)
    scale = scale.clone(memory_format=torch.contiguous_format)  # amax may leave any stride where there is one number
    return torch.cat([whole.to(torch.int8), scale.view(torch.int8)], -1)


def fetched(cached: Tensor) -> tuple[Tensor, Tensor | None]:
    """What `stored` made, as fp32 numbers and what each is worth, [..., 1], or None for 1."""
    if cached.dtype is not torch.int8:
        return cached.float(), None
    return cached[..., :-SCALE_BYTES].float(), cached[..., -SCALE_BYTES:].contiguous().view(torch.float32)


def attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> None:
    """See `attention_softcap`; the scores have no bound."""
    attention_softcap(qkv, kv, rows, heads, scale, window, out, 0.0)


def attention_sinks(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor) -> None:
    """See `attention_softcap`; a head's softmax has one more score, sinks [heads], that has no value, and the scores have no bound."""
    attention_softcap(qkv, kv, rows, heads, scale, window, out, 0.0, sinks)


@one_thread()
def attention_softcap(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float, sinks: Tensor | None = None
) -> None:
    """Softmax attention of each row over the keys up to its position, read from the cache (docs/numerics.md, section 3).

    Each row is computed by itself; the shapes within it follow from its position, the window and the model only.

    Args:
        qkv: q is the first heads * head_dim columns. [rows, any width]
        heads: query heads; a multiple of the cache's (grouped-query attention, Ainslie et al. 2023).
        scale: factor of q, and so of the scores.
        window: how many keys a row sees at most, its own included; 0 is all.
        out: [rows, heads * head_dim]
        cap: scores s become cap * tanh(s / cap); 0 leaves them.
        sinks: see `attention_sinks`.
    """
    (_, kv_heads, page_size, _), head_dim = kv.keys.shape, kv.head_dim
    starts = rows.tail_start.tolist()
    facts = zip(rows.request.tolist(), rows.positions.tolist(), rows.linear.tolist(), strict=True)
    for row, (request, position, linear) in enumerate(facts):
        q = (qkv[row, : heads * head_dim] * scale).view(kv_heads, heads // kv_heads, head_dim)
        first = max(0, position - window + 1) if window else 0
        slots = row_slots(rows.page_table[request], page_size, first, linear)
        if starts[row + 1] > starts[row]:
            tail = rows.tail_slots[starts[row] + max(0, first - linear) : starts[row + 1]]
            slots = torch.cat([slots, tail])
        page, offset = slots // page_size, slots % page_size
        merged = None
        begin = first
        while begin <= position:
            end = min(begin - begin % SEGMENT + SEGMENT, position + 1)
            here = slice(begin - first, end - first)
            part = segment(q, *(taken(cached, page[here], offset[here]) for cached in (kv.keys, kv.values)), cap)
            merged = part if merged is None else merge(merged, part)
            begin = end
        if sinks is not None:
            sink = sinks.view(kv_heads, -1, 1)
            merged = merge(merged, (sink, torch.ones_like(sink), torch.zeros_like(merged[2])))
        _, mass, mix = merged
        out[row] = (mix / mass).flatten()


def row_slots(pages: Tensor, page_size: int, first: int, end: int) -> Tensor:
    """Slots of positions first .. end - 1 under a page table row `pages` [max_pages]; int32 [max(0, end - first)]."""
    position = torch.arange(first, max(first, end), dtype=torch.int32)
    return pages[position // page_size] * page_size + position % page_size


def segment(
    q: Tensor, keys: tuple[Tensor, Tensor | None], values: tuple[Tensor, Tensor | None], cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One segment of one row, from scratch.

    Args:
        q: scaled. [kv_heads, group, head_dim]
        keys, values: by position, as `taken` gives them. [n, kv_heads, head_dim]

    Returns:
        greatest score [kv_heads, group, 1], sum of exp(score - greatest) [kv_heads, group, 1], and the values mixed
        with these weights [kv_heads, group, head_dim].
    """
    (keys, key_scale), (values, value_scale) = keys, values
    scores = q @ keys.permute(1, 2, 0)  # [kv_heads, group, n]
    if key_scale is not None:
        scores *= key_scale.permute(1, 2, 0)
    if cap:
        softcap(scores, cap)
    greatest = scores.amax(-1, keepdim=True)
    weights = exp(scores - greatest)
    mass = total(weights)[..., None]
    if value_scale is not None:
        weights = weights * value_scale.permute(1, 2, 0)
    return greatest, mass, weights @ values.transpose(0, 1)


def merge(left: tuple[Tensor, Tensor, Tensor], right: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Two neighbouring parts of a row as one (online softmax, Milakov and Gimelshein 2018)."""
    greatest = torch.maximum(left[0], right[0])
    a, b = exp(left[0] - greatest), exp(right[0] - greatest)
    return greatest, fma(left[1], a, right[1] * b), fma(left[2], a, right[2] * b)


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots in all layers of `pool` [layers, 2, pages, kv_heads, page_size, head_dim].

    Args:
        source, target: slots, int32 [n]; one pair after the other, so a later pair sees what an earlier one wrote.
    """
    page_size = pool.shape[4]
    for part in coded_pages(pool) if pool.dtype is torch.float8_e4m3fn else (pool,):
        for old, new in zip(source.tolist(), target.tolist(), strict=True):
            part[:, :, new // page_size, :, new % page_size] = part[:, :, old // page_size, :, old % page_size]
