"""Suffix drafts against a search through the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.suffix import ANCHOR, LONGEST, Options, Places, Suffix, vote
from slipstream.step.draft import EMPTY

TEXTS = st.lists(st.integers(0, 2), max_size=80)


def agreement(one: list[int], other: list[int]) -> int:
    length = 0
    while length < min(len(one), len(other), LONGEST) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


@given(TEXTS, st.lists(st.integers(1, 9), max_size=20))
def test_chains_find_what_a_search_finds(tokens, steps):
    text: list[int] = []
    places = Places(text)
    for step in [*steps, len(tokens)]:
        text.extend(tokens[len(text) : len(text) + step])
        places.extend()
        found = [(agreement(text[:end], text), end) for end in range(len(text) - 1, 0, -1)]
        found = [one for one in found if one[0] >= ANCHOR]
        best = max(found, default=(0, 0))[0]
        assert places.ends(text, len(text) + 1) == [one for one in found if one[0] == best]


def test_the_majority_goes_on_and_those_who_disagree_lose_their_say():
    tokens = [1, 5, 6, 0, 1, 5, 7, 0, 1, 5, 7, 0, 1, 4, 4, 0]
    assert vote(tokens, [1, 5, 9, 13], 8, share=0.5) == [5, 7, 0, 1, 5, 7, 0, 1]
    assert vote(tokens, [1, 13], 8, share=0.6) == []


def propose(drafter: Suffix, request: int, tokens: list[int]) -> tuple[int, ...]:
    (tree,) = drafter.propose([DraftContext(request, tokens, 8, voice=None)])
    return tree.tokens


def test_a_guess_is_as_long_as_what_it_rests_on():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert propose(Suffix(Options()), 1, [*text, 0, 1, 2]) == ()
    assert propose(Suffix(Options()), 1, [*text, 0, 1, 2, 3]) == (4, 5, 6, 7)
    assert propose(Suffix(Options()), 1, [*text, 0, 1, 2, 3, 4]) == (5, 6, 7, 8, 9)


def test_texts_of_others_only_where_they_are_asked_for():
    for others, expected in ((False, ()), (True, (4, 5, 6, 7))):
        drafter = Suffix(Options(others=others))
        assert propose(drafter, 1, [1, 2, 3, 4, 5, 6, 7, 8]) == ()
        drafter.drop(1)
        assert propose(drafter, 2, [9, 1, 2, 3]) == expected


def test_old_texts_are_forgotten():
    drafter = Suffix(Options(others=True, kept=64))
    for request in range(100):
        propose(drafter, request, list(range(request * 20, request * 20 + 20)))
        drafter.drop(request)
        assert len(drafter._store.tokens) < 64 + 2 * 21
    assert propose(drafter, 500, [99 * 20, 99 * 20 + 1, 99 * 20 + 2])[0] == 99 * 20 + 3
    assert propose(drafter, 501, [0, 1, 2]) == () == EMPTY.tokens
