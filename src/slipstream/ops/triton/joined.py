"""The merge of segments: the kernel that joins the parts of a row which several programs of attend.py, together.py or mixed.py left.

Owns its arithmetic: from left to right, by the FMAs by which a program joins its own segments, to the same bits.
"""

import triton
import triton.language as tl

from slipstream.ops.triton.attend import _LOG2E, _shares, _size
from slipstream.ops.triton.chain import await_turn

AT_ONCE = tl.constexpr(16)  # segments whose parts a warp fetches together


@triton.jit(do_not_specialize=["window", "segments"], do_not_specialize_on_alignment=["positions", "sinks"])
def _merge(
    positions, tops, mixes, sinks, out, window, segments,
    heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    warps: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0)
    _join(
        row, row, positions, tops, mixes, sinks, out, window, segments, heads, head_dim, block_dim, segment_keys, most, warps, has_sinks
    )  # fmt: skip


@triton.jit
def _join(
    row, seat, positions, tops, mixes, sinks, out, window, segments,
    heads: tl.constexpr, head_dim: tl.constexpr, block_dim: tl.constexpr, segment_keys: tl.constexpr, most: tl.constexpr,
    warps: tl.constexpr, has_sinks: tl.constexpr,
):  # fmt: skip
    """Merges the parts of a row and a head, which lie at `seat` of the workspace."""
    position = tl.load(positions + row)
    result = row.to(tl.int64) * heads + tl.program_id(1)
    parts = (seat.to(tl.int64) * heads + tl.program_id(1)) * segments
    lowest = tl.where(window > 0, tl.maximum(position - window + 1, 0), 0)
    column, one = tl.arange(0, block_dim), tl.arange(0, 1)
    whole_top = tl.full([1], float("-inf"), tl.float32)
    whole_mass = tl.zeros([1], tl.float32)
    whole_mix = tl.zeros([block_dim], tl.float32)
    size = _size(position, segment_keys, most)
    last = position // size
    for some in range(lowest // size, last + 1, AT_ONCE * warps):
        for number in tl.static_range(AT_ONCE * warps):
            there = some + number <= last  # past it an empty part, which changes nothing
            part = parts + some + number
            mix = tl.load(mixes + part * head_dim + column, mask=there & (column < head_dim), other=0.0)
            whole_top, a, b = _shares(whole_top, tl.load(tops + part * 2 + one, mask=there & (one == 0), other=float("-inf")))
            whole_mass = tl.fma(whole_mass, a, tl.load(tops + part * 2 + 1 + one, mask=there & (one == 0), other=0.0) * b)
            whole_mix = tl.fma(whole_mix, tl.broadcast_to(a, whole_mix.shape), mix * b)
    if has_sinks:
        whole_top, a, b = _shares(whole_top, tl.load(sinks + tl.program_id(1) + one) * _LOG2E)
        whole_mass, whole_mix = tl.fma(whole_mass, a, b), whole_mix * tl.broadcast_to(a, whole_mix.shape)
    inside = column < head_dim
    tl.store(out + result * head_dim + column, tl.div_rn(whole_mix, tl.broadcast_to(whole_mass, whole_mix.shape)), mask=inside)
