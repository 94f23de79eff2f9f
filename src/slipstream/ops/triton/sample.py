"""Drawing one id per row (docs/numerics.md, section 4), without sorting and without reading anything back to the host.

    peaks    greatest z of each stretch of the vocabulary        truncated rows only
    masses   e^(z - greatest) and an order-preserving key         truncated rows only
    cut      where the order (z descending, id ascending) ends    rows not truncated keep all
    draw     z + noise of the kept ids, the best of each stretch
    pick     the best of the row

min-p, top-k and top-p each keep a prefix of that order, so what is kept is named by its last element: a key and an id. `cut`
finds it by asking how many ids, or how much mass, lie before a candidate, two bits at a time. Sums of masses are fp64 and have
one tree for each vocabulary; a sum over more ids is never smaller, so the search has one answer.

Owns these kernels and their workspace, 8 bytes per logit. Whether a row is truncated is read on the device.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton import elementary
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts
from slipstream.ops.types import SampleRows

STRETCH = 2048  # ids per program
SEARCH = 4096  # ids per step of a search
KEY_BITS = 32
ALL_IDS = tl.constexpr(0x7FFFFFFF)
ROWS = ["temperature", "top_k", "top_p", "min_p", "seed", "position", "sample", "cut_key", "cut_id"]


@triton.jit
def _scaled(logits, row, token, inside, temperature, vocab: tl.constexpr):
    """z of some ids of a row; the logits themselves at temperature 0. Outside the vocabulary -inf."""
    z = elementary.finite_above(tl.load(logits + row * vocab + token, mask=inside, other=float("-inf")))
    return elementary.finite_above(tl.div_rn(z, tl.broadcast_to(tl.where(temperature > 0.0, temperature, 1.0), z.shape)))


@triton.jit
def _key(z):
    """uint32 whose order is the order of z."""
    bits = z.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@triton.jit
def _truncated(temperature, top_k, top_p, min_p, row, vocab: tl.constexpr):
    """Whether a row asks for less than the whole vocabulary."""
    k = tl.load(top_k + row)
    return (tl.load(temperature + row) > 0.0) & (((k > 0) & (k < vocab)) | (tl.load(top_p + row) < 1.0) | (tl.load(min_p + row) > 0.0))


@triton.jit(do_not_specialize_on_alignment=ROWS)
def _peaks(logits, temperature, top_k, top_p, min_p, peaks, vocab: tl.constexpr, stretch: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    if _truncated(temperature, top_k, top_p, min_p, row, vocab):
        token = tl.program_id(1) * stretch + tl.arange(0, stretch)
        z = _scaled(logits, row, token, token < vocab, tl.load(temperature + row), vocab)
        tl.store(peaks + row * tl.num_programs(1) + tl.program_id(1), tl.max(z, axis=0))


@triton.jit(do_not_specialize_on_alignment=ROWS)
def _masses(
    logits, temperature, top_k, top_p, min_p, peaks, keys, masses,
    vocab: tl.constexpr, stretch: tl.constexpr, stretches: tl.constexpr, stretches_block: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    if _truncated(temperature, top_k, top_p, min_p, row, vocab):
        number = tl.arange(0, stretches_block)
        peak = tl.max(tl.load(peaks + row * stretches + number, mask=number < stretches, other=float("-inf")), axis=0)
        token = tl.program_id(1) * stretch + tl.arange(0, stretch)
        inside = token < vocab
        z = _scaled(logits, row, token, inside, tl.load(temperature + row), vocab)
        mass = elementary.exp(z - tl.where(peak == float("-inf"), 0.0, peak))
        tl.store(keys + row * vocab + token, _key(z).to(tl.int32, bitcast=True), mask=inside)
        tl.store(masses + row * vocab + token, mass, mask=inside)


@triton.jit
def _before(keys, masses, by_mass, key0, key1, key2, end0, end1, end2, vocab: tl.constexpr, search: tl.constexpr):
    """How many ids (or how much mass) come before each of three places of a row's order: greater keys, or the same and id < end."""
    sum0 = tl.zeros([search], tl.float64)
    sum1 = tl.zeros([search], tl.float64)
    sum2 = tl.zeros([search], tl.float64)
    for start in range(0, vocab, search):
        token = start + tl.arange(0, search)
        inside = token < vocab
        key = tl.load(keys + token, mask=inside, other=0).to(tl.uint32, bitcast=True)
        amount = tl.load(masses + token, mask=inside & by_mass, other=1.0).to(tl.float64)
        amount = tl.where(inside, amount, 0.0)
        sum0 += tl.where((key > key0) | ((key == key0) & (token < end0)), amount, 0.0)
        sum1 += tl.where((key > key1) | ((key == key1) & (token < end1)), amount, 0.0)
        sum2 += tl.where((key > key2) | ((key == key2) & (token < end2)), amount, 0.0)
    return tl.sum(sum0, axis=0), tl.sum(sum1, axis=0), tl.sum(sum2, axis=0)


@triton.jit
def _last_needed(keys, masses, by_mass, target, vocab: tl.constexpr, search: tl.constexpr, key_bits: tl.constexpr, id_bits: tl.constexpr):
    """(key, id) of the last element of the shortest prefix that holds `target` ids (or mass)."""
    key = target.to(tl.int64) * 0
    for step in range(key_bits // 2):
        unit = tl.full([], 1, tl.int64) << (key_bits - 2 - 2 * step)
        one, two, three = (key + unit).to(tl.uint32), (key + 2 * unit).to(tl.uint32), (key + 3 * unit).to(tl.uint32)
        a, b, c = _before(keys, masses, by_mass, one, two, three, ALL_IDS, ALL_IDS, ALL_IDS, vocab, search)
        key += unit * ((a >= target).to(tl.int64) + (b >= target).to(tl.int64) + (c >= target).to(tl.int64))
    same = key.to(tl.uint32)
    token = (target * 0).to(tl.int32)
    for step in range(id_bits // 2):
        unit = tl.full([], 1, tl.int32) << (id_bits - 2 - 2 * step)
        a, b, c = _before(keys, masses, by_mass, same, same, same, token + unit, token + 2 * unit, token + 3 * unit, vocab, search)
        token += unit * ((a < target).to(tl.int32) + (b < target).to(tl.int32) + (c < target).to(tl.int32))
    return key, token


@triton.jit(do_not_specialize_on_alignment=ROWS)
def _cut(
    temperature, top_k, top_p, min_p, keys, masses, cut_key, cut_id,
    vocab: tl.constexpr, search: tl.constexpr, key_bits: tl.constexpr, id_bits: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    key = row * 0
    token = tl.program_id(0) * 0 + ALL_IDS - 1
    if _truncated(temperature, top_k, top_p, min_p, row, vocab):
        keys += row * vocab
        masses += row * vocab
        least, k, share = tl.load(min_p + row), tl.load(top_k + row), tl.load(top_p + row).to(tl.float64)
        if least > 0.0:
            lowest = tl.full([search], 0xFFFFFFFF, tl.int64)
            for start in range(0, vocab, search):
                place = start + tl.arange(0, search)
                kept = tl.load(masses + place, mask=place < vocab, other=-1.0) >= least
                own = tl.load(keys + place, mask=place < vocab, other=0).to(tl.uint32, bitcast=True).to(tl.int64)
                lowest = tl.minimum(lowest, tl.where(kept, own, 0xFFFFFFFF))
            key = tl.min(lowest, axis=0)
        if (k > 0) & (k < vocab):
            new_key, new_id = _last_needed(keys, masses, False, k.to(tl.float64), vocab, search, key_bits, id_bits)
            if new_key >= key:  # the shorter of two prefixes
                key, token = new_key, new_id
        if share < 1.0:
            here = key.to(tl.uint32)
            left, _, _ = _before(keys, masses, True, here, here, here, token + 1, token + 1, token + 1, vocab, search)
            key, token = _last_needed(keys, masses, True, share * left, vocab, search, key_bits, id_bits)
    tl.store(cut_key + row, key)
    tl.store(cut_id + row, token)


@triton.jit(do_not_specialize_on_alignment=ROWS)
def _draw(
    logits, temperature, seed, position, sample, cut_key, cut_id, values, ids,
    vocab: tl.constexpr, stretch: tl.constexpr,
):  # fmt: skip
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    token = tl.program_id(1) * stretch + tl.arange(0, stretch)
    inside = token < vocab
    value = _scaled(logits, row, token, inside, heat, vocab)
    if heat > 0.0:
        word = tl.zeros([stretch // 4], tl.uint32)
        key = tl.load(seed + row)
        low, high = key.to(tl.uint32) + word, (key >> 32).to(tl.uint32) + word
        place, number = tl.load(position + row).to(tl.uint32) + word, tl.load(sample + row).to(tl.uint32) + word
        quarter = (tl.program_id(1) * (stretch // 4) + tl.arange(0, stretch // 4)).to(tl.uint32)
        w0, w1, w2, w3 = elementary.philox(low, high, place, number, quarter, word)
        noise = elementary.gumbel(tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3)))
        own, last = _key(value), tl.load(cut_key + row).to(tl.uint32)
        kept = inside & ((own > last) | ((own == last) & (token <= tl.load(cut_id + row))))
        value = tl.where(kept, value + noise, float("-inf"))
    best, index = tl.max(value, axis=0, return_indices=True)
    tl.store(values + row * tl.num_programs(1) + tl.program_id(1), best)
    tl.store(ids + row * tl.num_programs(1) + tl.program_id(1), tl.program_id(1) * stretch + index)


@triton.jit(do_not_specialize_on_alignment=["out"])
def _pick(values, ids, out, stretches: tl.constexpr, stretches_block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, stretches_block)
    value = tl.load(values + row * stretches + number, mask=number < stretches, other=float("-inf"))
    _, index = tl.max(value, axis=0, return_indices=True)
    tl.store(out + row, tl.load(ids + row * stretches + index))


@cache
def variants(vocab: int) -> dict[str, Variant]:
    """The forms of the five steps for a vocabulary of this size."""
    stretches = triton.cdiv(vocab, STRETCH)
    block = power_of_two(stretches)
    asked = ("*fp32", "*i32", "*fp32", "*fp32")  # temperature, top_k, top_p, min_p
    row = {"vocab": vocab, "stretch": STRETCH}
    wide = {"stretches": stretches, "stretches_block": block}
    search = min(SEARCH, power_of_two(vocab, 32))
    bits = {"key_bits": KEY_BITS, "id_bits": 2 * triton.cdiv(vocab.bit_length(), 2)}
    return {
        "peaks": Variant(_peaks, row, ("*fp32", *asked, "*fp32"), warps=8),
        "masses": Variant(_masses, row | wide, ("*fp32", *asked, "*fp32", "*i32", "*fp32"), warps=8),
        "cut": Variant(_cut, {"vocab": vocab, "search": search} | bits, (*asked, "*i32", "*fp32", "*i64", "*i32"), warps=16),
        "draw": Variant(_draw, row, ("*fp32", "*fp32", "*i64", "*i32", "*i32", "*i64", "*i32", "*fp32", "*i32"), warps=8),
        "pick": Variant(_pick, wide, ("*fp32", "*i32", "*i32"), warps=1),
    }


def sample(logits: Tensor, rows: SampleRows, out: Tensor) -> None:
    """out [rows] int32: one id per row of logits [rows, vocab]. A NaN logit counts as -inf, a row of -inf yields 0."""
    count, vocab = logits.shape
    fits("sample", "logits", logits, (count, vocab))
    for name in ("temperature", "top_p", "min_p"):
        row_facts("sample", name, getattr(rows, name), count, torch.float32)
    for name in ("top_k", "position", "sample"):
        row_facts("sample", name, getattr(rows, name), count)
    row_facts("sample", "seed", rows.seed, count, torch.int64)
    row_facts("sample", "out", out, count)
    if not count:
        return
    steps, stretches = variants(vocab), triton.cdiv(vocab, STRETCH)

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=logits.device)

    peaks, values, ids = scratch(count, stretches), scratch(count, stretches), scratch(count, stretches, dtype=torch.int32)
    keys, masses = scratch(count, vocab, dtype=torch.int32), scratch(count, vocab)
    cut_key, cut_id = scratch(count, dtype=torch.int64), scratch(count, dtype=torch.int32)
    asked = rows.temperature, rows.top_k, rows.top_p, rows.min_p
    steps["peaks"].launch((count, stretches), logits, *asked, peaks)
    steps["masses"].launch((count, stretches), logits, *asked, peaks, keys, masses)
    steps["cut"].launch((count,), *asked, keys, masses, cut_key, cut_id)
    steps["draw"].launch((count, stretches), logits, rows.temperature, rows.seed, rows.position, rows.sample, cut_key, cut_id, values, ids)
    steps["pick"].launch((count,), values, ids, out)
