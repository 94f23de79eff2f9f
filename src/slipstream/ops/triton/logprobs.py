"""Log-probabilities from raw logits. Owns its kernel: one program per row; the likeliest ids come from torch's stable sort."""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from slipstream.ops.triton import elementary
from slipstream.ops.triton.chain import await_turn
from slipstream.ops.triton.launch import Variant, fits, power_of_two, row_facts

STEP = 4096  # ids per step


@triton.jit(do_not_specialize_on_alignment=["tokens", "logprob", "rank", "peaks", "masses"])
def _logprobs(logits, tokens, logprob, rank, peaks, masses, vocab: tl.constexpr, block: tl.constexpr):
    await_turn()
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocab
    token = tl.load(tokens + row)
    own = tl.load(logits + token)
    greatest = tl.full([block], float("-inf"), tl.float32)
    for start in range(0, vocab, block):
        number = start + tl.arange(0, block)
        greatest = tl.maximum(greatest, tl.load(logits + number, mask=number < vocab, other=float("-inf")))
    peak = tl.max(greatest, axis=0)
    mass = tl.zeros([block], tl.float64)
    above = tl.zeros([block], tl.int32)
    for start in range(0, vocab, block):
        number = start + tl.arange(0, block)
        value = tl.load(logits + number, mask=number < vocab, other=float("-inf"))
        mass += elementary.exp(value - peak).to(tl.float64)
        above += ((value > own) | ((value == own) & (number < token))).to(tl.int32)
    whole = elementary.log(tl.broadcast_to(tl.sum(mass, axis=0).to(tl.float32), [1]))
    here = row + tl.arange(0, 1)
    tl.store(logprob + here, (own - peak) - whole)
    tl.store(rank + here, tl.broadcast_to(1 + tl.sum(above, axis=0), [1]))
    tl.store(peaks + here, tl.broadcast_to(peak, [1]))
    tl.store(masses + here, whole)


@cache
def variant(vocab: int) -> Variant:
    """The form for a vocabulary of this size."""
    constants = {"vocab": vocab, "block": min(STEP, power_of_two(vocab, 32))}
    return Variant(_logprobs, constants, ("*fp32", "*i32", "*fp32", "*i32", "*fp32", "*fp32"), warps=8)


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability and rank of one token per row, and the `top` likeliest; equal ones by ascending id.

    Args:
        logits: [rows, vocab]; tokens: int32 [rows].

    Returns:
        logprob [rows]; rank int32 [rows], 1 is the likeliest; ids int32 [rows, top] and their log-probabilities [rows, top].
    """
    count, vocab = logits.shape
    fits("logprobs", "logits", logits, (count, vocab))
    row_facts("logprobs", "tokens", tokens, count)
    logprob, peak, mass = torch.empty(3, count, device=logits.device)
    rank = torch.empty(count, dtype=torch.int32, device=logits.device)
    variant(vocab).launch((count,), logits, tokens, logprob, rank, peak, mass)
    if not top:
        return logprob, rank, rank.new_empty(count, 0), logits.new_empty(count, 0)
    ids = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return logprob, rank, ids.int(), (logits.gather(1, ids) - peak[:, None]) - mass[:, None]
