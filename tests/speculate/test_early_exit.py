"""The model's own first layers: how far they guess follows from how often they were right."""

from random import Random

import pytest

from slipstream import LLM, SamplingParams
from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.early_exit import Chance, EarlyExit, Options

MODEL = "dummy:tiny:bf16"


def lengths(chance: Chance, count: int = 400) -> float:
    return sum(chance.length(6, Random(number)) for number in range(count)) / count


def test_right_guesses_make_longer_drafts_and_wrong_ones_none():
    good, bad = Chance(), Chance()
    for _ in range(100):
        good.see(6, 0)
        bad.see(0, 1)
    assert lengths(good) > 5 and lengths(bad) < 0.2 and 0.5 < lengths(Chance()) < 2.5
    for _ in range(200):
        bad.see(0, 0)  # nothing was tried, and the bad news fade
    assert lengths(bad) > 0.5


def test_the_mean_length_is_that_of_a_chain_of_equal_chances():
    """Of p = 3/4 for certain: p + p^2 + ... + p^6."""
    sure = Chance(right=3e6, wrong=1e6)
    assert abs(lengths(sure, 4000) - sum(0.75**depth for depth in range(1, 7))) < 0.1


class Layers:
    """A forward that says 7 after everything."""

    vocab, ahead, max_rows, max_asks, max_len = 100, 1, 64, 8, 1000

    def reserve(self, request, length):
        return True

    def run(self, feeds):
        return [7 for feed in feeds if feed.ask is not None]

    def chain(self, feeds, count):
        return [[7] * count for _ in feeds]

    def drop(self, request):
        return None


@pytest.mark.parametrize("said, longer", [(7, True), (8, False)])
def test_what_followed_a_draft_is_learnt_from_the_text(said, longer):
    drafter, text, drafted = EarlyExit(Layers(), Options(nodes=4)), [1, 2, 3], []
    for _ in range(60):
        (tree,) = drafter.propose([DraftContext(0, text, 4, None)])
        assert set(tree.tokens) <= {7}
        drafted.append(len(tree))
        text += [said] * (len(tree) + 1 if said == 7 else 1)
    assert (sum(drafted[30:]) > 90) == longer and (sum(drafted[30:]) < 30) != longer
    drafter.drop(0)
    assert len(drafter.propose([DraftContext(0, [1, 2], 4, None)])) == 1, "it may come back with another text"


def test_a_run_drafts_the_same_again():
    def tally(llm: LLM):
        llm.generate([[5, 6, 7, 8], [9, 10]], SamplingParams(max_tokens=24, temperature=0.7, seed=3, ignore_eos=True))
        tally = llm.engine.core.meter.tally
        return tally.drafted, tally.accepted_at

    first, again = (tally(LLM(MODEL, speculate="early_exit:layers=1", control=False)) for _ in range(2))
    assert first == again and first[0] > 0
