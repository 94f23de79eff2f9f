"""SamplingParams: what is refused, and how it is said."""

import math

import pytest

from slipstream import InputError, SamplingParams


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("max_tokens", -1),
        ("max_tokens", True),
        ("n", 0),
        ("n", 1000),
        ("seed", -1),
        ("seed", 2**64),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("logprobs", 21),
        ("stop", [""]),
        ("bad_words", [3]),
        ("allowed_token_ids", []),
        ("min_tokens", 17),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(InputError, match=field):
        SamplingParams(**{field: value})


def test_scoring_alone_needs_something_to_score():
    with pytest.raises(InputError, match="max_tokens=0"):
        SamplingParams(max_tokens=0)
    assert SamplingParams(max_tokens=0, prompt_logprobs=0).max_tokens == 0


def test_bias_is_checked():
    with pytest.raises(InputError, match="logit_bias"):
        SamplingParams(logit_bias={3: 101})
    with pytest.raises(InputError, match="logit_bias"):
        SamplingParams(logit_bias={"3": 1})


def test_one_stop_string_needs_no_list():
    assert SamplingParams(stop="END").stop == ("END",)
