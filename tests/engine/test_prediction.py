"""A prediction is a draft of its request: it changes no text, and its tokens are counted."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.errors import InputError

PROMPT = "It was a dark night, and"


@pytest.fixture(scope="module")
def llm():
    made = LLM(control=False, max_batch=4, max_len=256)
    yield made
    made.close()


def said(llm, temperature, prediction=None, n=1):
    params = SamplingParams(max_tokens=48, temperature=temperature, seed=3, ignore_eos=True, prediction=prediction, n=n)
    return llm.generate(PROMPT, params)[0].outputs


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_the_text_is_the_same_and_comes_in_fewer_steps(llm, temperature):
    [plain] = said(llm, temperature)
    before = len(llm.engine.core.meter.steps)
    [whole] = said(llm, temperature, plain.text)
    assert whole.token_ids == plain.token_ids
    checked, right = whole.predicted
    assert right >= 38 and checked - right <= 16, "a text of 48 tokens, said in three steps after the first if they are cut as before"
    assert len(llm.engine.core.meter.steps) - before <= 12

    words = plain.text.split(" ")
    edited = " ".join([*words[:8], "whatever", *words[9:20], *words[23:]])
    [other] = said(llm, temperature, edited)
    assert other.token_ids == plain.token_ids and 15 <= other.predicted[1] < right and other.predicted[0] > other.predicted[1]

    [wrong] = said(llm, temperature, "Nothing of the kind: 3.14159, 2.71828.")
    assert wrong.token_ids == plain.token_ids and wrong.predicted[0] > 0


def test_each_sample_has_its_own_place(llm):
    plain = said(llm, 0.8, n=3)
    predicted = said(llm, 0.8, plain[1].text, n=3)
    assert [one.token_ids for one in predicted] == [one.token_ids for one in plain]
    assert predicted[1].predicted[1] >= 38 > predicted[0].predicted[1]


def test_neighbours_without_one_are_left_alone(llm):
    [plain] = said(llm, 0)
    params = [SamplingParams(max_tokens=24, temperature=0, ignore_eos=True, prediction=text) for text in (None, plain.text)]
    without, by_it = (output.outputs[0] for output in llm.generate([PROMPT, PROMPT], params))
    assert without.predicted == (0, 0) and by_it.predicted[1] > 15 and without.token_ids == by_it.token_ids


def test_what_cannot_be_predicted():
    with pytest.raises(InputError, match="prediction=3: must be a text"):
        SamplingParams(prediction=3)
    tiny = LLM("dummy:tiny:fp32")
    with pytest.raises(InputError, match="prediction: this model has no tokenizer"):
        tiny.generate([1, 2], SamplingParams(prediction="x"))
    assert tiny.generate([1, 2], SamplingParams(prediction=""))[0].outputs[0].token_ids
