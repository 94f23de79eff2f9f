"""Lookahead: what the model draws at the window's nodes moves the window on, and its n-grams come back as guesses."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.errors import InputError
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.lookahead import Lookahead, Options

PERIOD = [11, 12, 13, 14, 15]


def said_at(position: int) -> int:
    """A model that says these five in turn, whatever was before."""
    return PERIOD[position % 5]


def run(drafter, text: list[int], steps: int, cut: int = 100) -> list[int]:
    """Tokens of each step with that model."""
    gained = []
    for _ in range(steps):
        tree, end = drafter.propose([DraftContext(0, text, 100, None)])[0].prune(cut, 100, 1000), len(text)
        tree.check()
        drafter.observe(0, tree, [said_at(end + depth) for depth in (0, *tree.depths())])
        kept = tree.follow([said_at(position) for position in range(end, end + 10)])
        text += [said_at(position) for position in range(end, end + len(kept) + 1)]
        gained.append(len(kept) + 1)
    return gained


def test_the_window_finds_n_grams_before_they_are_said():
    text = [1, 2, 3, 11]
    gained = run(Lookahead(Options(size=4, window=5, guesses=2)), text, 12)
    assert gained[0] == 1 and sum(gained[:4]) > 4, "some are found before five tokens were said"
    assert min(gained[6:]) == 4, "three of the pool and one of the model's own; the window itself may be right too"


def test_a_window_that_was_cut_stays_and_the_text_feeds_the_pool():
    drafter, text = Lookahead(Options(size=3, window=3, guesses=2)), [1, 2, 3, 11]
    drafter.propose([DraftContext(0, text, 100, None)])
    before = [list(level) for level in drafter._ahead[0].levels]
    gained = run(drafter, text, 10, cut=2)
    assert [level[1:] for level in drafter._ahead[0].levels] == [level[1:] for level in before]
    assert sum(gained[:4]) < 6 and gained[-3:] == [3] * 3
    drafter.drop(0)
    assert not drafter._ahead


def test_it_runs_with_the_engine_at_every_temperature():
    for sampling in (dict(temperature=0), dict(temperature=0.9, seed=2)):
        params, said = SamplingParams(max_tokens=30, ignore_eos=True, **sampling), []
        for drafter in ("none", "first:of=lookahead", "lookahead"):
            llm = LLM("dummy:tiny:fp32", speculate=drafter, control=False, page_size=4)
            said.append([out.outputs[0].token_ids for out in llm.generate([[5, 6, 7], [5, 6, 7, 5, 6]], params)])
        assert said[0] == said[1] == said[2]
        ahead = llm.engine.executor.runner.drafter.other._ahead
        assert not ahead, "requests that ended are forgotten"


def test_too_large_a_window_is_refused():
    with pytest.raises(InputError, match="make 107 nodes, more than 64"):
        choose("lookahead:size=5,window=15,guesses=12")
