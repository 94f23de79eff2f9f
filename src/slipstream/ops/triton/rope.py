"""Rotary positions and the write into the cache. Owns its kernel: one program per row and block of heads, every pair by itself."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, fitting_cache, power_of_two, row_facts
from slipstream.ops.types import KV, SCALE_BYTES

GREATEST = tl.constexpr(448.0)  # number of e4m3
_SCALE = tl.constexpr(SCALE_BYTES)
HEADS = 8  # heads (of q, k and v together) per program


@triton.jit(do_not_specialize=["page_size"], do_not_specialize_on_alignment=["positions", "slots"])
def _rope_write(
    qkv, positions, slots, table, keys, values, page_size,
    heads: tl.constexpr, kv_heads: tl.constexpr, half: tl.constexpr, block_heads: tl.constexpr, block_half: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * block_heads + tl.arange(0, block_heads)  # q heads, then k, then v
    pair = tl.arange(0, block_half)
    slot = tl.load(slots + row)  # before anything is stored, so that it is not waited for
    inside = (head < heads + 2 * kv_heads)[:, None] & (pair < half)[None, :]
    turned = inside & (head < heads + kv_heads)[:, None]
    angle = table + tl.load(positions + row).to(tl.int64) * (2 * half) + pair
    cos = tl.load(angle, mask=pair < half, other=0.0)[None, :]
    sin = tl.load(angle + half, mask=pair < half, other=0.0)[None, :]
    place = qkv + row * ((heads + 2 * kv_heads) * 2 * half) + head[:, None] * (2 * half) + pair[None, :]
    first = tl.load(place, mask=inside, other=0.0)
    second = tl.load(place + half, mask=inside, other=0.0)
    a = tl.where(turned, tl.fma(-second, sin, first * cos), first)
    b = tl.where(turned, tl.fma(first, sin, second * cos), second)
    tl.store(place, a, mask=turned)
    tl.store(place + half, b, mask=turned)
    page = (slot // page_size).to(tl.int64)
    line = (head - heads) % kv_heads  # of the key or value head
    coded: tl.constexpr = keys.dtype.element_ty == tl.float8e4nv
    begin = (page * kv_heads + line) * page_size * (2 * half + (_SCALE if coded else 0))  # of the page's part of the head
    cell = (begin + slot % page_size * (2 * half))[:, None] + pair[None, :]
    is_key = turned & (head >= heads)[:, None]
    is_value = inside & (head >= heads + kv_heads)[:, None]
    if coded:
        scale = tl.div_rn(tl.max(tl.maximum(tl.abs(a), tl.abs(b)), axis=1), GREATEST)  # [block_heads]
        divisor = tl.where(scale == 0.0, 1.0, scale)[:, None]
        a = tl.minimum(tl.maximum(tl.div_rn(a, divisor), -GREATEST), GREATEST)
        b = tl.minimum(tl.maximum(tl.div_rn(b, divisor), -GREATEST), GREATEST)
        place = (begin + page_size * (2 * half)) // _SCALE + slot % page_size
        in_values = head >= heads + kv_heads
        tl.store(keys.to(tl.pointer_type(tl.float32)) + place, scale, mask=(head >= heads) & (head < heads + kv_heads))
        tl.store(values.to(tl.pointer_type(tl.float32)) + place, scale, mask=in_values & (head < heads + 2 * kv_heads))
    for part in tl.static_range(2):
        stored = (a if part == 0 else b).to(keys.dtype.element_ty)
        tl.store(keys + cell + part * half, stored, mask=is_key)
        tl.store(values + cell + part * half, stored, mask=is_value)


@cache
def variant(heads: int, kv_heads: int, head_dim: int, cache_type: str) -> Variant:
    """The form for these heads and a cache of this type, "*fp32", "*bf16" or "*fp8e4nv"."""
    half = head_dim // 2
    constants = {"heads": heads, "kv_heads": kv_heads, "half": half, "block_heads": HEADS, "block_half": power_of_two(half)}
    return Variant(_rope_write, constants, ("*fp32", "*i32", "*i32", "*fp32", cache_type, cache_type, "i32"))


def rope_write(qkv: Tensor, positions: Tensor, slots: Tensor, table: Tensor, kv: KV, heads: int) -> None:
    """Rotates q and k in place (Su et al. 2021, half-split pairs) and writes k and v to the cache at `slots`, in its type.

    Args:
        qkv: [rows, (heads + 2 * kv_heads) * head_dim], q heads first, then k, then v.
        positions, slots: where each row stands, and where its key and value go. [rows]
        table: cos and sin per position. [max_len, 2, head_dim / 2]
    """
    rows = qkv.shape[0]
    (_, kv_heads, page_size, _), head_dim = kv.keys.shape, kv.head_dim
    if head_dim % 2:
        raise InputError(f"rope_write: head_dim={head_dim} must be even")
    kind = fitting_cache("rope_write", kv)
    fits("rope_write", "qkv", qkv, (rows, (heads + 2 * kv_heads) * head_dim))
    fits("rope_write", "table", table, (table.shape[0], 2, head_dim // 2))
    row_facts("rope_write", "positions", positions, rows)
    row_facts("rope_write", "slots", slots, rows)
    programs = (rows, triton.cdiv(heads + 2 * kv_heads, HEADS))
    variant(heads, kv_heads, head_dim, kind).launch(programs, qkv, positions, slots, table, kv.keys, kv.values, page_size)
