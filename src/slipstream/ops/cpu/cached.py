"""Ops on the KV cache: rope + write, attention, moves of token slots."""

import torch
from torch import Tensor

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops.cpu.checks import cache, fits, integers, tokens_together
from slipstream.ops.types import KV, AttentionRows

_native = native.module


def rope_write(qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, kv: KV, heads: int) -> None:
    """Rotates q and k in place in qkv (Su et al. 2021) and writes k and v to the cache at `slots`."""
    pool = cache("rope_write", kv)
    kv_heads, head_dim = pool[4], pool[6]
    rows, max_len = qkv.shape[0], table.shape[0]
    if head_dim % 2:
        raise InputError(f"rope_write: head_dim={head_dim} must be even")
    _native.rope_write(
        fits("rope_write", "qkv", qkv, (rows, (heads + 2 * kv_heads) * head_dim)), integers("rope_write", "positions", positions, rows),
        integers("rope_write", "slots", slots, rows), fits("rope_write", "table", table, (max_len, 2, head_dim // 2)),
        rows, heads, max_len, *pool,
    )  # fmt: skip


def attention(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor) -> None:
    """out [rows, heads * head_dim] = softmax(scale * q k^T) v over the keys that `rows` names, `window` of them at most (0: all)."""
    _attend(qkv, kv, rows, heads, scale, window, out)


def attention_softcap(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float) -> None:
    """`attention` with scores s bounded to cap * tanh(s / cap); cap > 0."""
    if not cap > 0:
        raise InputError(f"attention_softcap: cap={cap} must be above 0")
    _attend(qkv, kv, rows, heads, scale, window, out, cap=cap)


def attention_sinks(qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, sinks: Tensor) -> None:
    """`attention` where each head's softmax has one more score, sinks [heads], that has no value."""
    _attend(qkv, kv, rows, heads, scale, window, out, sinks=fits("attention_sinks", "sinks", sinks, (heads,)))


def _attend(
    qkv: Tensor, kv: KV, rows: AttentionRows, heads: int, scale: float, window: int, out: Tensor, cap: float = 0.0, sinks: int = 0
) -> None:
    pool = cache("attention", kv)
    head_dim = pool[6]
    count, width = qkv.shape
    if not scale > 0 or window < 0 or width < heads * head_dim:
        needed = f"scale > 0, window >= 0, width >= {heads * head_dim}"
        raise InputError(f"attention: scale={scale}, window={window}, qkv width={width}: must be {needed}")
    requests, max_pages = rows.page_table.shape
    tails = rows.tail_slots.shape[0]
    _native.attention(
        fits("attention", "qkv", qkv, (count, width)), fits("attention", "out", out, (count, heads * head_dim)),
        count, heads, width, scale, window, *pool,
        integers("attention", "request", rows.request, count), integers("attention", "positions", rows.positions, count),
        integers("attention", "linear", rows.linear, count), integers("attention", "tail_start", rows.tail_start, count + 1),
        integers("attention", "tail_slots", rows.tail_slots, tails), tails,
        fits("attention", "page_table", rows.page_table, (requests, max_pages), torch.int32), requests, max_pages, cap, sinks,
    )  # fmt: skip


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots source[i] -> target[i] in all layers, one pair after the other.

    Args:
        pool: [layers, 2, pages, kv_heads, page_size, head_dim], any type.
        source, target: slots. [n] int32
    """
    if pool.dim() != 6 or pool.shape[1] != 2:
        raise InputError(f"move: pool must be [layers, 2, pages, kv_heads, page_size, head_dim]; found {list(pool.shape)}")
    layers, both, pages, kv_heads, page_size, head_dim = pool.shape
    count, size, (page, head) = source.shape[0], pool.element_size(), tokens_together("move", "pool", pool)
    if pool.stride(0) != both * pool.stride(1):
        raise InputError(f"move: pool must have its layers' keys and values equally far apart; found strides {pool.stride()}")
    _native.move(
        pool.data_ptr(), layers * both, pool.stride(1) * size, pages, kv_heads, page_size, head_dim * size, page, head,
        integers("move", "source", source, count), integers("move", "target", target, count), count,
    )  # fmt: skip
