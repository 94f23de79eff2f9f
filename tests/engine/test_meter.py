"""The meter writes down exactly what the steps were asked to do."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.cost import Work
from slipstream.engine.meter import Meter, work_of
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result, TokenLogprobs


def test_work_of_a_plan_by_hand():
    """A prompt's part whose last two rows score, a plain decode, and a draft of a root's two children and a grandchild."""
    draft = DraftTree((5, 6, 7), (-1, -1, 0))
    chunks = (
        Chunk(1, 4, (1, 2, 3), (0,), sample=False, score=1),
        Chunk(2, 10, (1,), (1,), sample=True),
        Chunk(3, 20, (1,), (2, 3), sample=True, draft=draft),
    )
    scores = (TokenLogprobs(2, -1.0, 1), TokenLogprobs(3, -1.0, 1))
    result = Result((Outcome(1, scores=scores), Outcome(2, (9,)), Outcome(3, (5, 8))))
    assert work_of(Plan(chunks=chunks), result) == Work(
        rows=3 + 1 + 4, sampled=2 + 1 + 4, read=7 + 11 + 24, keys=(5 + 6 + 7) + 11 + (21 + 22 + 22 + 23)
    )


def test_a_plan_without_rows_is_empty_work():
    meter = Meter()
    meter.record(Plan(released=(1,)), Result(), 0.5)
    [step] = meter.steps
    assert (step.work, step.tokens, step.requests, step.seconds) == (Work(), 0, 0, 0.5)


@pytest.mark.parametrize("max_step_tokens", [4, 7, 64])
def test_steps_add_up_however_the_prompts_are_cut(max_step_tokens):
    """Whatever the chunks: every token but the last is computed once and sees all before it, every new one is drawn once."""
    llm = LLM("dummy:tiny:fp32", page_size=4, max_batch=3, max_step_tokens=max_step_tokens, prefix_cache=False)
    prompts, new = [[3] * 5, [4] * 11, [5]], 6
    llm.generate(prompts, SamplingParams(max_tokens=new, temperature=0, ignore_eos=True))
    works = [step.work for step in llm.engine.core.meter.steps]
    lengths = [len(prompt) + new - 1 for prompt in prompts]
    assert sum(work.rows for work in works) == sum(lengths)
    assert sum(work.keys for work in works) == sum(n * (n + 1) // 2 for n in lengths)
    assert sum(work.sampled for work in works) == new * len(prompts)


def test_scored_rows_want_logits_too():
    llm = LLM("dummy:tiny:fp32", prefix_cache=False)
    llm.generate([1, 2, 3, 4, 5], SamplingParams(max_tokens=1, prompt_logprobs=0, ignore_eos=True))
    works = [step.work for step in llm.engine.core.meter.steps if step.work.rows]
    assert works == [Work(rows=5, sampled=4 + 1, read=5, keys=15)]
