"""Rounds: several checks in one step say what single ones would, keep as many guesses, and leave a cache that can be read again."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base import native
from slipstream.ops import Kernels
from slipstream.ops.staging import Fetch
from slipstream.scheduler import passes
from slipstream.worker import rounds
from tests.tools.graph import Graph
from tests.tools.steps import watch_steps

PROMPTS = ["The old man looked at the sea", "She said", "In the beginning of the year there was a great deal of"]


def said(kind: str, params: SamplingParams, prompts=PROMPTS, again: bool = False, **options):
    """Texts, tokens of each check per request, and how many steps had several."""
    llm = LLM(None, speculate=kind, max_batch=4, max_step_tokens=64, max_len=160, **{"page_size": 5, "control": False, **options})
    checks, several = {}, 0

    def watched(plan, result):
        nonlocal several
        for chunk, outcome in zip(plan.chunks, result.outcomes, strict=True):
            if chunk.draft.tokens:
                checks.setdefault(chunk.request, []).extend(outcome.said)
                several += len(outcome.rounds) > 1

    watch_steps(llm.engine.core.executor.runner, watched)
    texts = [output.outputs[0].token_ids for output in llm.generate(prompts, params)]
    if again:  # what the tree remembers was written in rounds
        spoken = [[*output.prompt_token_ids, *output.outputs[0].token_ids] for output in llm.generate(prompts, params)]
        texts += [output.outputs[0].token_ids for output in llm.generate(spoken, params)]
    llm.close()
    return texts, checks, several


@pytest.mark.parametrize(("kind", "heat"), [("eagle:nodes=3,depth=3", 0.8), ("mtp:nodes=2,depth=2", 0.0)])
def test_rounds_say_and_keep_what_single_checks_do(kind, heat, monkeypatch):
    params = SamplingParams(max_tokens=45, temperature=heat, seed=7, ignore_eos=True)
    texts, checks, several = said(kind, params)
    monkeypatch.setattr(passes, "COUNTS", (1,))
    alone, singly, none = said(kind, params)
    assert texts == alone and several and not none
    for number, line in singly.items():
        assert checks[number][:10] == line[:10], "the head had read something else"


def test_texts_end_within_rounds_and_are_read_again():
    params = SamplingParams(max_tokens=30, temperature=0.7, seed=2, stop_token_ids=[199, 14, 12])
    plain, _, _ = said("none", params, again=True)
    texts, _, several = said("eagle:nodes=4,depth=4", params, again=True)
    assert several and texts == plain


def test_a_request_whose_logits_are_edited_takes_single_checks():
    params = SamplingParams(max_tokens=20, temperature=0.0, repetition_penalty=1.2, ignore_eos=True)
    texts, checks, several = said("eagle:nodes=3,depth=3", params)
    assert checks and not several and texts == said("none", params)[0]


def test_the_controller_comes_to_rounds_and_learns_of_each():
    params = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
    llm = LLM(None, speculate="eagle", max_batch=1, max_len=160)
    for prompt in PROMPTS[:2]:
        llm.generate([prompt], params)
    tally = llm.engine.core.meter.tally
    llm.close()
    assert tally.drafts and tally.steps + tally.accepted == 200, "every token is counted once"


@pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
@pytest.mark.parametrize("kind", ["eagle:nodes=3,depth=3", "mtp:nodes=2,depth=2"])
def test_rounds_where_the_device_works_by_itself(kind, monkeypatch):
    """As on a GPU: rounds are graphs, nobody looks at a number between two of them, and steps are filled up to a few sizes."""
    params = SamplingParams(max_tokens=45, temperature=0.8, seed=7, ignore_eos=True)
    texts, checks, _ = said(kind, params)
    waits, launched, replayed = [], [], []
    run, fetched, replay = rounds.Rounds.run, Fetch.list, Graph.run
    monkeypatch.setattr(Kernels, "tape", lambda self: Graph())
    monkeypatch.setattr(Kernels, "pads", True)
    monkeypatch.setattr(Kernels, "padded", lambda self, rows: next(size for size in (4, 16, 64) if size >= rows))
    monkeypatch.setattr(Graph, "run", lambda self, *rows: (replayed.append(len(launched) % 2), replay(self, *rows))[1])
    noted = lambda self, *args: (launched.append(len(waits)), run(self, *args), launched.append(len(waits)))[1]  # noqa: E731
    monkeypatch.setattr(rounds.Rounds, "run", noted)
    monkeypatch.setattr(Fetch, "list", lambda self: (waits.append(1), fetched(self))[1])
    got, checked, several = said(kind, params)
    assert got == texts and several
    assert launched[::2] == launched[1::2], "the host waited for numbers within a step"
    assert sum(replayed) > 3 * several, "rounds ran without graphs"
    for number, line in checks.items():
        assert checked[number][:10] == line[:10], "the head had read something else"
