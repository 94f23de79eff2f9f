"""Predictions: where a text is in them, and that they only ever help."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from slipstream.speculate.drafters import none, suffix
from slipstream.speculate.predicted import Aligned, Predicted
from slipstream.step.draft import PREDICTION

PROMPT = [900, 901]


def accepted(prediction, text, count=4) -> int:
    """How many tokens of `text` come from drafts, if as many as are right are kept in each step."""
    aligned, at, kept = Aligned(prediction, len(PROMPT)), 0, 0
    while at < len(text):
        guess = aligned.guess([*PROMPT, *text[:at]], count).tokens
        right = 0
        while right < len(guess) and at + right < len(text) and guess[right] == text[at + right]:
            right += 1
        kept += right
        at += right + 1
    return kept


TEXT = list(range(100, 160))


def test_a_prediction_that_is_right_is_taken_whole():
    assert accepted(TEXT, TEXT) == 48, "four of each five; the fifth is the model's own"


def test_it_is_found_again_after_every_kind_of_change():
    changed = [*TEXT[:20], 1, *TEXT[21:]]
    deleted = [*TEXT[:20], *TEXT[26:]]
    inserted = [*TEXT[:20], 1, 2, 3, 4, 5, *TEXT[20:]]
    moved = [*TEXT[30:], *TEXT[:30]]
    for text in (changed, deleted, inserted, moved):
        assert accepted(TEXT, text) >= 0.8 * len(text) - 9, text


def test_the_nearest_of_equal_places_and_the_longest_agreement():
    row = [1, 2, 3]
    prediction = [*row, 10, *row, 11, *row, 12]
    aligned = Aligned(prediction, 0)
    assert aligned.guess([], 2).tokens == (1, 2)
    assert aligned.guess([*row, 10, *row], 1).tokens == (11,)
    lost = Aligned(prediction, 0)
    assert lost.guess([*row, 10, 77, 2, 3], 1).tokens == (11,), "the one nearest to where it was lost"
    assert lost.guess([*row, 10, 77, 2, 3, 12], 1).tokens == ()
    assert Aligned([5, 6, 1, 8, 7, 6, 1, 9], 0).guess([0, 0, 7, 6, 1], 1).tokens == (9,), "more agreement outweighs nearness"


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_any_prediction_and_any_text(prediction, text, count):
    aligned = Aligned(prediction, 1)
    for end in range(len(text) + 1):
        tree = aligned.guess([9, *text[:end]], count)
        tree.check()
        assert len(tree) <= count and (not tree.tokens or tree.kind.startswith(PREDICTION))
        if tree.tokens and end:
            assert text[end - 1] in prediction, "it goes on from a token that the two share"
    assert 0 <= accepted(prediction, text, count) <= len(text)


def context(request, tokens, prediction=()):
    return SimpleNamespace(request=request, tokens=tokens, prediction=prediction, prompt=1, budget=3, passes=0)


def test_others_are_asked_where_a_prediction_says_nothing():
    drafter = Predicted(suffix.make(suffix.Options(), None))
    asked = [context(1, [7], [1, 2]), context(2, [1, 2, 3, 4, 1, 2, 3]), context(3, [1, 2, 3, 4, 1, 2, 3], [8])]
    kinds = [tree.kind.split()[0] for tree in drafter.propose(asked)]
    assert kinds == [PREDICTION, "suffix", "suffix"]
    for number in (1, 2, 3):
        drafter.drop(number)
        drafter.drop(number)
    assert not drafter._aligned

    alone = Predicted(none.NoDrafter())
    assert [len(tree) for tree in alone.propose(asked)] == [2, 0, 0]
