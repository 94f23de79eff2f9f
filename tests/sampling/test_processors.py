"""Each processor against a plain statement of what it does, drafted ancestors included."""

import pytest
import torch

from slipstream.base import registry
from slipstream.sampling.sampler import Voice
from slipstream.step import Admission, SamplingParams

VOCAB = 16
PACKAGE = "slipstream.sampling.processors"


def edited(params: SamplingParams, prompt, output, path=(), banned=(), ends=()):
    admission = Admission(0, (*prompt, *output), len(prompt), params, seed=1, banned=banned, ends=ends)
    row = torch.linspace(-2, 2, VOCAB)
    for processor in Voice.of(admission, VOCAB).processors:
        processor.apply(row, path)
    return row


def plain():
    return torch.linspace(-2, 2, VOCAB)


def test_penalties_count_the_text_and_the_path():
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    row, expected = edited(params, [1, 15], [3, 3], [4]), plain()
    for token in (1, 15, 3, 4):
        expected[token] = expected[token] / 2 if expected[token] > 0 else expected[token] * 2
    expected[3] -= 2 * 0.25 + 0.5
    expected[4] -= 0.25 + 0.5
    assert torch.equal(row, expected)


def test_bad_words_look_at_the_output_and_the_path_only():
    banned = ((5, 6), (7,))
    low = float("-inf")
    assert edited(SamplingParams(), [5], [], banned=banned)[6] != low, "the prompt's end is not the output's beginning"
    assert edited(SamplingParams(), [1], [5], banned=banned)[6] == low
    assert edited(SamplingParams(), [1], [], [5], banned=banned)[6] == low
    assert edited(SamplingParams(), [1], [5], [1], banned=banned)[6] != low
    assert edited(SamplingParams(), [1], [], banned=banned)[7] == low


def test_min_tokens_counts_drafted_tokens():
    params = SamplingParams(min_tokens=3, stop_token_ids=(9,))
    low = float("-inf")
    assert edited(params, [1], [2], ends=(0,))[[0, 9]].tolist() == [low, low]
    assert edited(params, [1], [2], [3, 4], ends=(0,))[0] != low
    assert edited(params, [1], [2, 2, 2], ends=(0,))[0] != low


def test_allowed_and_bias():
    row = edited(SamplingParams(allowed_token_ids=(2, 3), logit_bias={3: 5.0}), [1], [])
    assert torch.isfinite(row).nonzero().flatten().tolist() == [2, 3]
    assert row[3] == plain()[3] + 5


CASES = [
    SamplingParams(logit_bias={1: 3.0}),
    SamplingParams(allowed_token_ids=(1, 2)),
    SamplingParams(min_tokens=3, stop_token_ids=(4,)),
    SamplingParams(repetition_penalty=1.5, frequency_penalty=0.3, presence_penalty=0.1),
]


@pytest.mark.parametrize("params", CASES, ids=str)
def test_a_draft_path_does_what_the_same_tokens_would_do_as_output(params):
    """Contract of every processor: apply(path) == append(each of path) then apply(); and a path leaves no trace."""
    admission = Admission(0, (1, 2, 5), 2, params, seed=1, banned=((5, 6), (6, 6)))
    drafted, appended = Voice.of(admission, VOCAB), Voice.of(admission, VOCAB)
    row, same, again = plain(), plain(), plain()
    for processor in drafted.processors:
        processor.apply(row, [6, 3])
    for processor in appended.processors:
        processor.append(6)
        processor.append(3)
        processor.apply(same, ())
    assert torch.equal(row, same)
    drafted.append([6, 3])
    for processor in drafted.processors:
        processor.apply(again, ())
    assert torch.equal(again, same)


def test_every_processor_is_silent_when_not_asked_for():
    quiet = Admission(0, (1, 2), 1, SamplingParams(), seed=0)
    for name in registry.names(PACKAGE):
        module = registry.load(PACKAGE, name)
        assert module.make(quiet, VOCAB, "cpu") is None, name
    stages = [registry.load(PACKAGE, name).STAGE for name in registry.names(PACKAGE)]
    assert len(set(stages)) == len(stages), "the order of two processors must not depend on their names"
