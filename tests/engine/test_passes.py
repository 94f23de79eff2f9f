"""Steps of several passes in the engine: planned only where the worker takes them, and looked behind for guesses."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.errors import BackendError
from slipstream.step import Admission, Chunk, Plan
from tests.tools.steps import watch_steps

EDITED = [
    dict(logprobs=1), dict(min_tokens=4), dict(logit_bias={3: -5.0}), dict(allowed_token_ids=(3, 4, 5)),
    dict(repetition_penalty=1.2), dict(presence_penalty=0.5), dict(frequency_penalty=0.5),
]  # fmt: skip


def passes(llm: LLM, prompt: list[int], **params) -> list[tuple[int, int]]:
    """(planned, taken) of every step that takes a request to its end."""
    seen = []
    watch_steps(llm.engine.core.executor.runner, lambda plan, result: seen.append((plan.passes, result.passes)))
    llm.generate(prompt, SamplingParams(**{"max_tokens": 24, "temperature": 0, "ignore_eos": True} | params))
    return seen


@pytest.fixture(scope="module")
def llm():
    made = LLM("dummy:tiny:fp32", speculate="none", max_len=64)
    yield made
    made.close()


@pytest.mark.parametrize("params", EDITED, ids=lambda params: next(iter(params)))
def test_a_step_that_the_host_has_a_hand_in_is_planned_as_one_pass(llm, params):
    assert {planned for planned, _ in passes(llm, [1, 2, 3], **params)} == {1}


def test_all_others_take_what_was_planned(llm):
    seen = passes(llm, [1, 2, 3])
    assert all(planned == taken for planned, taken in seen) and max(taken for _, taken in seen) > 1


def test_guesses_are_looked_for_after_all_passes():
    """A text that repeats itself: steps of several passes find that out, and those that check guesses take over."""
    llm = LLM("dummy:tiny:fp32", speculate="ngram", control=False, max_len=256)
    seen = passes(llm, [1, 2, 3, 4, 5], max_tokens=200)
    assert max(taken for _, taken in seen) > 1 and llm.engine.core.meter.tally.accepted > 20
    llm.close()


def test_a_step_that_cannot_take_the_passes_that_were_planned_is_an_error(llm):
    """Another step may have been planned on all their tokens."""
    runner = llm.engine.core.executor.runner
    admission = Admission(900, (1,), 1, SamplingParams(logprobs=1), 0)
    with pytest.raises(BackendError, match="passes=2"):
        runner.run(Plan((admission,), (Chunk(900, 0, (1,), (0,), True),), passes=2))
    runner.reset()
