"""The distribution that is written down is the one that the `sample` op draws from."""

import math

import pytest
import torch

from slipstream.ops.dispatch import Kernels
from slipstream.sampling.distribution import distribution
from slipstream.sampling.noting import NotingSampler, apart
from slipstream.sampling.sampler import SampleRow, Voice
from slipstream.step import Admission, SamplingParams

VOCAB, DRAWS = 40, 2048
LOGITS = 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(1))


def voice(**sampling) -> Voice:
    return Voice.of(Admission(1, (1,), 1, SamplingParams(**sampling), seed=5), VOCAB)


@pytest.mark.parametrize(
    "sampling", [dict(), dict(temperature=0.6), dict(top_k=5), dict(top_p=0.8, temperature=1.3), dict(min_p=0.05, top_p=0.95)]
)
def test_draws_follow_it(sampling):
    asked, sampler = voice(**sampling), NotingSampler(Kernels("cpu"), DRAWS)
    rows = [SampleRow(asked, position) for position in range(DRAWS)]
    tokens, _ = sampler.draw(LOGITS.repeat(DRAWS, 1), rows)
    expected = DRAWS * distribution(LOGITS, asked.params)
    count = torch.bincount(torch.tensor(tokens), minlength=VOCAB).double()
    assert expected.sum() == pytest.approx(DRAWS) and not count[expected == 0].any()
    often = expected > 5
    chi = ((count - expected)[often] ** 2 / expected[often]).sum()
    assert chi < often.sum() + 6 * math.sqrt(2 * often.sum())


def test_what_is_certain():
    line = torch.tensor([1.0, 3.0, math.nan, 3.0])
    assert distribution(line, SamplingParams(temperature=0)).tolist() == [0, 1, 0, 0]
    assert distribution(torch.full((3,), -math.inf), SamplingParams()).tolist() == [1, 0, 0], "as the op, which takes the first"
    assert distribution(torch.tensor([0.0, math.inf]), SamplingParams()).tolist() == [0, 1]


def test_a_voice_apart_notes_what_it_draws():
    asked = voice(logit_bias={3: 50.0})
    one, other = apart(asked, 7), apart(asked, 8)
    assert len({asked.seed, one.seed, other.seed, apart(voice(), 7).seed}) == 3 and -(2**63) <= one.seed < 2**63
    sampler = NotingSampler(Kernels("cpu"), 4)
    tokens, _ = sampler.draw(LOGITS.repeat(3, 1), [SampleRow(one, 7), SampleRow(one, 8, [tokens_before := 9]), SampleRow(asked, 7)])
    assert tokens == [3, 3, 3] and asked.notes is None and not other.notes.drawn
    assert {path: [token for token, _ in drawn] for path, drawn in one.notes.drawn.items()} == {(): [3], (tokens_before,): [3]}
    assert one.notes.drawn[()][0][1][3] > 0.999, "after the bias"
