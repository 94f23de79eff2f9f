"""Drafts decide how far a step reaches: exactly as far as they are right."""

import pytest

from slipstream import LLM, SamplingParams
from tests.promises import oracles

PROMPT = [5, 6, 7, 8]


def run(drafter, new: int, **sampling) -> LLM:
    llm = LLM("dummy:tiny:fp32", speculate=drafter, control=False, page_size=4)
    output = llm.generate(PROMPT, SamplingParams(max_tokens=new, ignore_eos=True, **sampling))[0].outputs[0]
    assert len(output.token_ids) == new
    llm.said = [*PROMPT, *output.token_ids]
    return llm


@pytest.mark.parametrize("sampling", [dict(temperature=0), dict(temperature=0.9, seed=3)], ids=["greedy", "seeded"])
def test_perfect_drafts_gain_every_node_and_wrong_ones_nothing(sampling):
    plain = run("none", 29, **sampling)
    assert [step.tokens for step in plain.engine.core.meter.steps if step.work.rows] == [1] * 29

    perfect = run(oracles.Perfect([plain.said]), 29, **sampling)
    assert perfect.said == plain.said
    gained = [step.tokens for step in perfect.engine.core.meter.steps if step.work.rows]
    assert gained == [1, 7, 7, 7, 7], "the first token has no draft, then 6 drafted tokens and one of the model's own per step"

    wrong = run(oracles.AlwaysWrong([plain.said]), 29, **sampling)
    assert wrong.said == plain.said
    assert [step.tokens for step in wrong.engine.core.meter.steps if step.work.rows] == [1] * 29


def test_trees_are_used_and_moved():
    plain = run("none", 40, temperature=0.9, seed=4)
    tree = run(oracles.RandomTree([plain.said], seed=1), 40, temperature=0.9, seed=4)
    assert tree.said == plain.said
    steps = [step for step in tree.engine.core.meter.steps if step.work.rows]
    assert len(steps) < 30 and any(step.work.rows > step.tokens > 1 for step in steps)


def test_a_stop_inside_a_draft_ends_the_text_there():
    plain = run("none", 20, temperature=0.9, seed=5)
    stop = plain.said[len(PROMPT) + 9]
    first = plain.said.index(stop, len(PROMPT)) - len(PROMPT)
    llm = LLM("dummy:tiny:fp32", speculate=oracles.Perfect([plain.said]), control=False, page_size=4)
    params = SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.9, seed=5, stop_token_ids=(stop,))
    output = llm.generate(PROMPT, params)[0].outputs[0]
    assert output.finish_reason == "stop"
    assert output.token_ids == plain.said[len(PROMPT) : len(PROMPT) + first + 1]
    llm.engine.core.scheduler.check_integrity()
