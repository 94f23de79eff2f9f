"""The model's own first layers: how far they guess follows from how often they were right."""

from random import Random

import pytest

from slipstream import LLM, InputError, SamplingParams
from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.early_exit import Chance, EarlyExit, Options, exits, worth

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
    """A forward that says the same after everything."""

    vocab, ahead, max_rows, max_asks, max_len = 100, 1, 64, 8, 1000

    def __init__(self, says: int = 7):
        self.says, self.calls = says, 0

    def reserve(self, request, length):
        return True

    def run(self, feeds):
        self.calls += 1
        return [self.says for feed in feeds if feed.ask is not None]

    def chain(self, feeds, count):
        return [[self.says] * count for _ in feeds]

    def drop(self, request):
        return None


@pytest.mark.parametrize("said, longer", [(7, True), (8, False)])
def test_what_followed_a_draft_is_learnt_from_the_text(said, longer):
    drafter, text, drafted = EarlyExit({0.25: Layers()}, Options(nodes=4)), [1, 2, 3], []
    for _ in range(60):
        (tree,) = drafter.propose([DraftContext(0, text, 4, None)])
        assert set(tree.tokens) <= {7}
        drafted.append(len(tree))
        text += [said] * (len(tree) + 1 if said == 7 else 1)
    assert (sum(drafted[30:]) > 90) == longer and (sum(drafted[30:]) < 30) != longer
    drafter.drop(0)
    assert len(drafter.propose([DraftContext(0, [1, 2], 4, None)])) == 1, "it may come back with another text"


@pytest.mark.parametrize("good", [0.25, 0.5])
def test_the_better_of_two_exits_is_found(good):
    """One says what comes, the other does not; where both do, the cheaper is better."""
    layers = {share: Layers(7 if share == good else 8) for share in (0.25, 0.5)}
    for both in (False, True):
        if both:
            layers[0.25].says = layers[0.5].says = 7
        drafter, text, calls = EarlyExit(layers, Options(nodes=4)), [1, 2, 3], []
        for _ in range(300):
            before = {share: one.calls for share, one in layers.items()}
            (tree,) = drafter.propose([DraftContext(0, text, 4, None)])
            calls.append(next((share for share, one in layers.items() if one.calls > before[share]), None))
            text += [7] * (len(tree) + 1 if 7 in tree.tokens else 1)
        best = 0.25 if both else good
        assert calls[200:].count(best) > 80
        assert both or good == 0.25 or 0.25 in calls, "the cheaper one was tried"


def test_what_an_exit_is_worth():
    assert worth(0.0, 0.5, 4) == 1.0 and worth(1.0, 0.5, 4) == 5 / 3
    assert worth(0.6, 0.25, 4) > worth(0.7, 0.5, 4), "somewhat more often right, but twice as dear"
    assert worth(0.9, 0.5, 4) > worth(0.3, 0.25, 4)


def test_two_exits_of_a_model_guess_for_it():
    assert exits(Options(), 8) == (2, 4) and exits(Options(), 2) == (1,) and exits(Options(layers=3), 8) == (3,)
    with pytest.raises(InputError, match="below the 2 that the model has"):
        exits(Options(layers=2), 2)


def test_a_run_drafts_the_same_again():
    def tally(llm: LLM):
        params = SamplingParams(max_tokens=24, temperature=0.7, seed=3, ignore_eos=True, logprobs=1)  # one pass a step
        llm.generate([[5, 6, 7, 8], [9, 10]], params)
        tally = llm.engine.core.meter.tally
        return tally.drafted, tally.accepted_at

    first, again = (tally(LLM(MODEL, speculate="early_exit:layers=1", control=False)) for _ in range(2))
    assert first == again and first[0] > 0
