"""Copying token slots within the cache, pair after pair. Owns its kernel: one program per layer, part (k or v) and head."""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts, type_name


@triton.jit(do_not_specialize=["count", "pages", "page_size"], do_not_specialize_on_alignment=["source", "target"])
def _move(pool, source, target, count, pages, page_size, kv_heads: tl.constexpr, head_dim: tl.constexpr, block: tl.constexpr):
    await_turn()
    part = tl.program_id(0).to(tl.int64)  # layer * 2 + (0 keys, 1 values)
    head = tl.program_id(1)
    column = tl.arange(0, block)
    inside = column < head_dim
    for pair in range(count):
        old, new = tl.load(source + pair), tl.load(target + pair)
        old_line = ((part * pages + old // page_size) * kv_heads + head) * page_size + old % page_size
        new_line = ((part * pages + new // page_size) * kv_heads + head) * page_size + new % page_size
        value = tl.load(pool + old_line * head_dim + column, mask=inside)
        tl.store(pool + new_line * head_dim + column, value, mask=inside)
        tl.debug_barrier()  # the next pair may read what this one wrote, by another thread


@cache
def variant(kv_heads: int, head_dim: int, cache_type: str) -> Variant:
    """The form for a cache of this type, "*fp32" or "*bf16"; never pipelined, which would read ahead of the writes."""
    constants = {"kv_heads": kv_heads, "head_dim": head_dim, "block": power_of_two(head_dim)}
    return Variant(_move, constants, (cache_type, "*i32", "*i32", "i32", "i32", "i32"), warps=1)


def move(pool: Tensor, source: Tensor, target: Tensor) -> None:
    """Copies token slots source[i] -> target[i] in all layers; a later pair sees what an earlier one wrote.

    Args:
        pool: [layers, 2, pages, kv_heads, page_size, head_dim], fp32 or bf16.
        source, target: slots. [n]
    """
    if pool.dim() != 6 or pool.shape[1] != 2:
        raise InputError(f"move: pool must be [layers, 2, pages, kv_heads, page_size, head_dim]; found {list(pool.shape)}")
    layers, _, pages, kv_heads, page_size, head_dim = pool.shape
    count = source.shape[0]
    kind = type_name("move", "pool", pool)
    fits("move", "pool", pool, pool.shape, pool.dtype)
    row_facts("move", "source", source, count)
    row_facts("move", "target", target, count)
    if count:
        variant(kv_heads, head_dim, kind).launch((2 * layers, kv_heads), pool, source, target, count, pages, page_size)
