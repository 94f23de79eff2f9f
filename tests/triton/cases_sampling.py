"""In the interpreter: noise and elementary functions bit by bit, draws and log-probabilities against the reference."""

import math

import pytest
import torch
import triton
import triton.language as tl
from candidate import KERNELS
from scenes import draw, equal_bits, random, sample_rows

from slipstream.ops import Kernels, reference
from slipstream.ops.reference import arithmetic, sampling
from slipstream.ops.triton import elementary

REFERENCE = Kernels(only="reference")


@triton.jit
def _words(words, out):
    place = tl.arange(0, 1)
    k0, k1 = tl.load(words + place), tl.load(words + 1 + place)
    c0, c1, c2, c3 = tl.load(words + 2 + place), tl.load(words + 3 + place), tl.load(words + 4 + place), tl.load(words + 5 + place)
    w0, w1, w2, w3 = elementary.philox(k0, k1, c0, c1, c2, c3)
    tl.store(out + place, w0)
    tl.store(out + 1 + place, w1)
    tl.store(out + 2 + place, w2)
    tl.store(out + 3 + place, w3)


@triton.jit
def _functions(x, exp, log, n: tl.constexpr):
    place = tl.arange(0, n)
    tl.store(exp + place, elementary.exp(tl.load(x + place)))
    tl.store(log + place, elementary.log(tl.abs(tl.load(x + place)) + 1e-30))


@triton.jit
def _noise(words, out, n: tl.constexpr):
    place = tl.arange(0, n)
    tl.store(out + place, elementary.gumbel(tl.load(words + place)))


def test_philox_known_answers():
    """Vectors of the Random123 distribution (kat_vectors, philox4x32 10)."""
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    for counter, key, want in [
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        out = torch.zeros(4, dtype=torch.uint32)
        _words[(1,)](torch.tensor([*key, *counter], dtype=torch.uint32), out)
        assert " ".join(f"{int(word):08x}" for word in out) == want


def test_exp_log_and_noise_have_the_references_bits():
    n = 8192
    x = torch.cat([random(n - 9, seed=1) * 30, torch.tensor([0.0, -87.3, -87.4, 88.7, 89.0, 1.0, -math.inf, math.inf, 1e-9])])
    exp, log, noise = torch.empty(3, n)
    _functions[(1,)](x, exp, log, n)
    assert equal_bits(exp, arithmetic.exp(x))
    finite = x.isfinite()
    assert equal_bits(log[finite], arithmetic.log(x[finite].abs() + 1e-30))
    words = torch.randint(2**32, (n,), generator=torch.Generator().manual_seed(3))
    words[:5] = torch.tensor([0, 1, 0x80000000, 0xFFFFFF80, 0xFFFFFFFF])
    _noise[(1,)](words.to(torch.uint32), noise, n)
    v = sampling.uniform(words)
    want = -arithmetic.log(torch.where(1 - v == 1, v, -arithmetic.log(1 - v) * v / (1 - (1 - v))))
    assert equal_bits(noise, want)


@pytest.mark.parametrize("vocab", [1, 7, 1003, 4100])
def test_draws_are_the_references(vocab):
    count = 8
    logits = random(count, vocab, seed=vocab) * 3
    logits[::3] = torch.round(logits[::3])  # equal ones
    choice = torch.arange(count)
    rows = sample_rows(
        count,
        temperature=torch.where(choice == 0, 0.0, 0.8),
        top_k=torch.where(choice % 2 == 1, 5, 0),
        top_p=torch.where(choice % 4 > 1, 0.7, 1.0),
        min_p=torch.where(choice > 4, 0.05, 0.0),
        seed=torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(2)),
        sample=choice,
        position=torch.arange(count) * 1000,
    )
    assert torch.equal(draw(KERNELS, logits, rows), draw(REFERENCE, logits, rows))


@pytest.mark.parametrize(
    "options, want",
    [
        (dict(top_k=2), {1, 2}),  # three equal ones: the lower ids stay
        (dict(top_k=1), {1}),
        (dict(top_p=0.3), {1, 2}),
        (dict(top_p=1e-6), {1}),
        (dict(min_p=1.0), {1, 2, 4}),
        (dict(min_p=0.2, top_k=4, top_p=0.85), {1, 2, 4}),
        (dict(), {0, 1, 2, 4, 5}),
    ],
)
def test_only_kept_ids_are_drawn(options, want):
    logits = torch.tensor([1.0, 2.0, 2.0, -math.inf, 2.0, 0.0]).repeat(6, 1)
    rows = sample_rows(6, seed=4, **options)
    drawn = draw(KERNELS, logits, rows)
    assert set(drawn.tolist()) <= want
    assert torch.equal(drawn, draw(REFERENCE, logits, rows))


def test_what_is_kept_ends_where_the_reference_ends():
    """Every kept id has a seed that makes it the winner: with these seeds exactly the kept ids are drawn."""
    vocab, k = 40, 7
    logits = torch.round(random(1, vocab, seed=3) * 2) / 2
    kept = sampling.kept(logits[0], k, 0.8, 0.01)

    def winner(seed: int) -> int:
        return int((logits[0] + sampling.gumbel(seed, 0, 0, vocab)).masked_fill(~kept, -math.inf).argmax())

    seeds = [next(seed for seed in range(100_000) if winner(seed) == token) for token in kept.nonzero()[:, 0].tolist()]
    rows = sample_rows(len(seeds), top_k=k, top_p=0.8, min_p=0.01, seed=torch.tensor(seeds), position=torch.zeros(len(seeds)))
    drawn = draw(KERNELS, logits.repeat(len(seeds), 1), rows)
    assert drawn.tolist() == kept.nonzero()[:, 0].tolist()


def test_equal_zeros_of_both_signs_are_ordered_by_id():
    logits = torch.tensor([[-0.0, 0.0, -1.0, 0.0]]).repeat(4, 1)
    assert set(draw(KERNELS, logits, sample_rows(4, top_k=1)).tolist()) == {0}


def test_greedy_takes_the_lowest_of_equal_ids():
    for vocab, winners in ((9, [4, 7]), (5003, [2047, 2048, 4999]), (64, [0, 63])):
        logits = random(vocab, seed=1)
        logits[winners] = 50.0
        assert draw(KERNELS, logits.repeat(2, 1), sample_rows(2, temperature=0.0)).tolist() == [winners[0]] * 2


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_broken_logits_never_leave_the_vocabulary(top_p):
    logits = torch.tensor([[math.nan, 1.0, math.nan], [-math.inf] * 3, [math.nan] * 3, [0.0, math.inf, -math.inf]]).repeat(2, 1)
    drawn = draw(KERNELS, logits, sample_rows(8, temperature=torch.tensor([0.0] * 4 + [1.0] * 4), top_p=top_p))
    assert drawn.tolist() == [1, 0, 0, 1] * 2


@pytest.mark.parametrize("vocab, top", [(9, 9), (1003, 5), (4100, 0)])
def test_logprobs(vocab, top):
    logits = random(6, vocab, seed=1) * 3
    logits[::2] = torch.round(logits[::2])
    logits[1, 0] = -math.inf
    tokens = torch.tensor([0, 0, vocab - 1, 3, 4, 5]).int()
    want = reference.logprobs(logits, tokens, top)
    for got, expected in zip(KERNELS.logprobs(logits, tokens, top), want, strict=True):
        assert got.dtype == expected.dtype and equal_bits(got, expected)
