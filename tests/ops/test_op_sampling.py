"""Sampling: the noise, which ids are kept, and that what is drawn follows the distribution.

The noise is looked at in the torch reference; draws are made with every candidate.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from slipstream.ops.reference import arithmetic, sampling
from tests.ops.scenes import draw, random, sample_rows


def test_philox_known_answers():
    """Vectors of the Random123 distribution (kat_vectors, philox4x32 10)."""
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    for counter, key, want in [
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (*pi, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]:
        assert " ".join(f"{word:08x}" for word in sampling.philox(key, counter)) == want
        tensors = [tuple(torch.tensor([word]) for word in words) for words in (key, counter)]
        assert " ".join(f"{int(word):08x}" for word in sampling.philox(*tensors)) == want


def test_noise_is_keyed_by_seed_sample_position_and_id():
    seed = 0xA4093822299F31D0
    words = sampling.noise_words(seed, 3, 9, 7)
    for token in range(7):
        assert words[token] == sampling.philox((0x299F31D0, 0xA4093822), (9, 3, token // 4, 0))[token % 4]
    assert torch.equal(words, sampling.noise_words(seed - 2**64, 3, 9, 7)), "the same bits as a signed seed"


def test_uniform_is_never_0_or_1_and_noise_is_finite():
    words = torch.tensor([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFF7F, 0xFFFFFF80, 0xFFFFFFFE, 0xFFFFFFFF])
    v = sampling.uniform(words)
    assert v.dtype == torch.float32 and (v > 0).all() and (v < 1).all() and (v.diff() >= 0).all()
    w = 1 - v
    exact = -torch.log1p(-v.double())
    got = torch.where(w == 1, v, -arithmetic.log(w) * v / (1 - w))
    torch.testing.assert_close(got.double(), exact, atol=0, rtol=1e-6)
    assert sampling.gumbel(1, 0, 0, 100_000).isfinite().all()


def test_exp_and_log_to_half_an_ulp():
    x = torch.cat([torch.linspace(-87, 88, 200_001), random(10_000, seed=1) * 1e-3])
    assert ((arithmetic.exp(x).double() - x.double().exp()).abs() <= 0.5001 * 2**-23 * x.double().exp()).all()
    assert arithmetic.exp(torch.tensor([-87.4, -1e30, -math.inf, 0.0, 89.0])).tolist() == [0.0, 0.0, 0.0, 1.0, math.inf]
    y = torch.cat([arithmetic.exp(x[x > -86]), 1 + random(10_000, seed=2) * 1e-4])
    assert ((arithmetic.log(y).double() - y.double().log()).abs() <= 0.5001 * 2**-23 * y.double().log().abs()).all()


CHI2_7 = 29.88  # exceeded with probability 1e-4 at 7 degrees of freedom


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("keyed", ["position", "seed", "sample"])
def test_sampling_follows_the_softmax(kernels, temperature, keyed):
    count, logits = 2000, torch.tensor([0.0, 1.0, -1.0, 0.5, 0.3, -0.4, 1.4, 0.9])
    key = {"position": 0, "seed": 5, "sample": 0, keyed: torch.arange(count)}
    drawn = draw(kernels, logits.repeat(count, 1), sample_rows(count, temperature=temperature, **key))
    expected = (logits.double() / temperature).softmax(-1) * count
    seen = torch.bincount(drawn, minlength=8)
    assert ((seen - expected) ** 2 / expected).sum() < CHI2_7, seen.tolist()


def test_sampling_among_the_kept_is_renormalised(kernels):
    count, logits = 2000, torch.tensor([2.0, 1.5, 1.2, 1.0, 0.5, 0.2, -1.0, -2.0])
    drawn = draw(kernels, logits.repeat(count, 1), sample_rows(count, top_k=5, top_p=0.8, min_p=0.1, seed=9))
    probabilities = logits[:5].double().softmax(-1)
    nucleus = int((probabilities.cumsum(0) < 0.8).sum()) + 1
    expected = probabilities[:nucleus] / probabilities[:nucleus].sum() * count
    seen = torch.bincount(drawn, minlength=8)
    assert not seen[nucleus:].any()
    assert ((seen[:nucleus] - expected) ** 2 / expected).sum() < 21.1, seen.tolist()  # 3 degrees of freedom, 1e-4


@given(
    logits=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([0.05, 0.3, 0.5, 0.77, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.2, 0.9, 1.0]),
)
def test_kept_ids_are_those_of_the_definition(logits, top_k, top_p, min_p):
    z = [value / 2 for value in logits]
    mass = [math.exp(value - max(z)) for value in z]
    assume(all(abs(value - min_p) > 1e-5 for value in mass if value < 1))
    order = [token for token in sorted(range(len(z)), key=lambda token: (-z[token], token)) if mass[token] >= min_p]
    order = order[:top_k] if top_k else order
    left, running, want = sum(mass[token] for token in order), 0.0, set()
    for token in order:
        want.add(token)
        running += mass[token]
        assume(top_p == 1 or abs(running - top_p * left) > 1e-5)
        if top_p < 1 and running >= top_p * left:
            break
    got = sampling.kept(torch.tensor(z), top_k, top_p, min_p)
    assert set(got.nonzero()[:, 0].tolist()) == want


def test_only_kept_ids_are_drawn_and_all_of_them(kernels):
    logits = torch.tensor([1.0, 2.0, 2.0, -math.inf, 2.0, 0.0])
    for options, want in [
        (dict(top_k=2), {1, 2}),  # three equal ones: the lower ids stay
        (dict(top_k=1), {1}),
        (dict(top_p=0.3), {1, 2}),  # e^2 = 29% of the mass
        (dict(top_p=1e-6), {1}),
        (dict(min_p=1.0), {1, 2, 4}),
        (dict(min_p=0.2, top_k=4, top_p=0.85), {1, 2, 4}),
        (dict(), {0, 1, 2, 4, 5}),  # what is forbidden never comes
    ]:
        drawn = draw(kernels, logits.repeat(300, 1), sample_rows(300, seed=4, **options))
        assert set(drawn.tolist()) == want, options


def test_greedy_takes_the_lowest_of_equal_ids(kernels, threads):
    for number in (1, 2):
        threads(number)
        for vocab, winners in ((9, [4, 7]), (100_003, [40_001, 40_002, 99_999]), (64, [0, 63])):
            logits = random(vocab, seed=1)
            logits[winners] = 50.0
            assert draw(kernels, logits.repeat(2, 1), sample_rows(2, temperature=0.0)).tolist() == [winners[0]] * 2


def test_broken_logits_never_leave_the_vocabulary(kernels):
    logits = torch.tensor([[math.nan, 1.0, math.nan], [-math.inf] * 3, [math.nan] * 3, [0.0, math.inf, -math.inf]]).repeat(2, 1)
    drawn = draw(kernels, logits, sample_rows(8, temperature=torch.tensor([0.0] * 4 + [1.0] * 4)))
    assert drawn.tolist() == [1, 0, 0, 1] * 2


def test_a_seed_uses_all_64_bits(kernels):
    logits = torch.zeros(64, 1000)
    seeds = torch.tensor([1 << bit for bit in range(63)] + [-(2**63)])
    drawn = draw(kernels, logits, sample_rows(64, seed=seeds, position=torch.zeros(64)))
    assert len(set(drawn.tolist())) > 50


def test_noise_of_some_ids_is_that_of_all():
    """Whatever the key: seeds are signed words."""
    keys = [(-3, 0, 5), (2**40 + 7, 2, 900), (0, 1, 0)]
    ids = np.array([[0, 3, 96], [5, 5, 50], [1, 2, 4]])
    found = sampling.gumbel_of(*np.array(keys).T[:, :, None], ids)
    for key, own, noise in zip(keys, ids, found, strict=True):
        assert torch.equal(noise, sampling.gumbel(*key, 97)[own])
