"""Copying token slots within the cache, pair after pair. Owns its kernel: one program per layer, part (k or v) and head."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, cache_type, fits, power_of_two, row_facts
from slipstream.ops.types import SCALE_BYTES, scale_bytes

_SCALE = tl.constexpr(SCALE_BYTES)


@triton.jit(do_not_specialize=["count", "pages", "page_size"], do_not_specialize_on_alignment=["source", "target"])
def _move(pool, source, target, count, pages, page_size, kv_heads: tl.constexpr, head_dim: tl.constexpr, block: tl.constexpr):
    await_turn()
    part = tl.program_id(0).to(tl.int64)  # layer * 2 + (0 keys, 1 values)
    head = tl.program_id(1)
    column = tl.arange(0, block)
    inside = column < head_dim
    coded: tl.constexpr = pool.dtype.element_ty == tl.float8e4nv
    size = page_size * (head_dim + (_SCALE if coded else 0))  # of a page's part of a head
    scales = pool.to(tl.pointer_type(tl.float32))
    for pair in range(count):
        old, new = tl.load(source + pair), tl.load(target + pair)
        old_page = ((part * pages + old // page_size) * kv_heads + head) * size
        new_page = ((part * pages + new // page_size) * kv_heads + head) * size
        value = tl.load(pool + old_page + old % page_size * head_dim + column, mask=inside)
        tl.store(pool + new_page + new % page_size * head_dim + column, value, mask=inside)
        if coded:
            behind = page_size * head_dim
            scale = tl.load(scales + (old_page + behind) // _SCALE + old % page_size)
            tl.store(scales + (new_page + behind) // _SCALE + new % page_size, scale)
        tl.debug_barrier()  # the next pair may read what this one wrote, by another thread


@cache
def variant(kv_heads: int, head_dim: int, kind: str) -> Variant:
    """The form for a cache of this type, "*fp32", "*bf16" or "*fp8e4nv"; never pipelined, which would read ahead of the writes."""
    constants = {"kv_heads": kv_heads, "head_dim": head_dim, "block": power_of_two(head_dim)}
    return Variant(_move, constants, (kind, "*i32", "*i32", "i32", "i32", "i32"), warps=1)


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots source[i] -> target[i] in all layers; a later pair sees what an earlier one wrote.

    Args:
        pool: [layers, 2, pages, kv_heads, page_size, head_dim], fp32, bf16 or e4m3 (as KV).
        source, target: slots. [n]
    """
    if pool.dim() != 6 or pool.shape[1] != 2:
        raise InputError(f"move: pool must be [layers, 2, pages, kv_heads, page_size, head_dim]; found {list(pool.shape)}")
    layers, _, pages, kv_heads, page_size, row = pool.shape
    count = source.shape[0]
    kind = cache_type("move", "pool", pool)
    fits("move", "pool", pool, pool.shape, pool.dtype)
    row_facts("move", "source", source, count)
    row_facts("move", "target", target, count)
    if count:
        made = variant(kv_heads, row - scale_bytes(pool.dtype), kind)
        made.launch((2 * layers, kv_heads), pool, source, target, count, pages, page_size)
