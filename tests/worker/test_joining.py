"""Rows that join the model's last layers: where they lie, and what there is room for."""

import pytest

from slipstream import LLM, SamplingParams

MODEL = "dummy:tiny:fp32"
PROMPT = [5, 6]


@pytest.mark.parametrize("max_len, drafts", [(20, True), (3, False)])
def test_a_text_may_fill_the_context(max_len, drafts):
    """Rows of the last tokens would stand behind its end; where it is shorter than a draft there are none."""
    texts = []
    for speculate in ("none", "firp:path=dummy"):
        llm = LLM(MODEL, speculate=speculate, control=False, max_len=max_len, page_size=4, max_batch=2)
        params = SamplingParams(max_tokens=max_len - len(PROMPT), temperature=0.8, seed=1, ignore_eos=True)
        texts.append([output.outputs[0].token_ids for output in llm.generate([PROMPT, PROMPT[::-1]], params)])
    assert texts[0] == texts[1] and (llm.engine.core.meter.tally.drafted > 0) == drafts


def test_their_slots_are_behind_all_pages_and_their_memory_is_planned():
    llm = LLM(MODEL, speculate="firp:path=dummy", page_size=4, max_batch=3, max_len=80, kv_tokens=80)
    pool, forward = llm.engine.executor.runner.pool, llm.engine.executor.runner.drafter.other._forward
    assert pool.pages == 20 and pool.tensor.shape[2] == 20 + 3  # twelve rows on three pages
    slots = forward._rows.host[2]
    assert slots.tolist() == list(range(80, 92))
    tails, start = forward._tail_slots.tolist(), forward._tail_start.tolist()
    assert [tails[a:b] for a, b in zip(start, start[1:], strict=False)][3:6] == [[80, 81, 82, 83], [84], [84, 85]]
    assert llm.engine.config.memory.drafter > pool.tensor[:, :, 20:].nbytes
    assert forward.reserve(7, 1) is False, "nobody runs"
