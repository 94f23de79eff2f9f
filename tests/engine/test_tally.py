"""The tally against steps counted by hand, and against an engine whose drafts are known."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.engine.tally import Tally
from slipstream.step import Chunk, DraftTree, Outcome, Plan, Result
from tests.promises import oracles


def test_by_hand():
    chain = DraftTree.chain([1, 2, 3])
    plan = Plan(
        chunks=(
            Chunk(1, 0, (1, 2), (), sample=False),
            Chunk(2, 9, (1,), (), sample=True),
            Chunk(3, 9, (1,), (), sample=True, draft=chain),
            Chunk(4, 9, (1,), (), sample=True, draft=chain),
        )
    )
    outcomes = (Outcome(1), Outcome(2, (5,)), Outcome(3, (1, 2, 9)), Outcome(4, (8,)))
    tally = Tally()
    tally.record(plan, Result(outcomes, drafting=0.5))
    assert (tally.steps, tally.drafts, tally.drafted, tally.accepted, tally.accepted_at) == (3, 2, 6, 2, [1, 1])
    assert tally.per_step == pytest.approx(5 / 3) and tally.per_draft == 2.0
    assert tally.by_depth(3) == [0.5, 0.5, 0.0] and tally.drafting == 0.5
    before = tally.copy()
    tally.record(plan, Result((Outcome(1), Outcome(2, (5,)), Outcome(3, (1, 2, 3, 4)), Outcome(4, (8,)))))
    later = tally.since(before)
    assert (later.steps, later.drafts, later.accepted_at, later.drafting) == (3, 2, [1, 1, 1], 0.0)
    assert before.accepted_at == [1, 1], "a copy is a copy"


def test_nothing_was_drafted():
    assert (Tally().per_step, Tally().per_draft, Tally().by_depth(2)) == (0.0, 0.0, [0.0, 0.0])


def test_an_engine_with_perfect_drafts():
    params = SamplingParams(max_tokens=29, ignore_eos=True, temperature=0)
    said = [5, 6, 7, *LLM("dummy:tiny:fp32").generate([5, 6, 7], params)[0].outputs[0].token_ids]
    llm = LLM("dummy:tiny:fp32", speculate=oracles.Perfect([said]), control=False)
    llm.generate([5, 6, 7], params)
    tally = llm.engine.core.meter.tally
    assert (tally.steps, tally.drafts, tally.drafted, tally.accepted) == (5, 4, 24, 24)
    assert tally.by_depth(6) == [1.0] * 6 and 0 < tally.drafting < sum(step.seconds for step in llm.engine.core.meter.steps)
