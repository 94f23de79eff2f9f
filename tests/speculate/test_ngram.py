"""Prompt lookup against a search through the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.ngram import Index, NGram, Options, go_on
from slipstream.step.draft import EMPTY

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def search(tokens: list[int], shortest: int, longest: int) -> tuple[int, int]:
    """The same by looking everywhere."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if size <= len(tokens) and tokens[end - size : end] == tokens[len(tokens) - size :]:
                return size, end
    return 0, 0


@given(TEXTS, st.integers(1, 3), st.integers(0, 3), st.lists(st.integers(1, 9), max_size=20))
def test_an_index_that_grows_finds_what_a_search_finds(tokens, shortest, more, steps):
    index, length = Index(shortest, shortest + more), 0
    for step in [*steps, len(tokens)]:
        length = min(length + step, len(tokens))
        index.extend(tokens[:length])
        assert index.look_up(tokens[:length]) == search(tokens[:length], shortest, shortest + more)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.integers(1, 19), st.integers(0, 30))
def test_a_guess_past_the_end_repeats_the_period(tokens, start, count):
    start = min(start, len(tokens) - 1)
    period = tokens[start:]
    assert go_on(tokens, start, count) == [period[place % len(period)] for place in range(count)]


def context(tokens: list[int], budget: int = 8) -> DraftContext:
    return DraftContext(1, tokens, budget, voice=None)


def test_the_longest_and_latest_occurrence_wins():
    drafter = NGram(Options(shortest=1, longest=3, nodes=3))
    text = [7, 1, 2, 3, 9, 9, 9, 4, 2, 3, 8, 8, 8, 1, 2, 3]
    (tree,) = drafter.propose([context(text)])
    assert tree.tokens == (9, 9, 9) and tree.kind == "ngram 3"
    text.append(5)
    assert drafter.propose([context(text)]) == [EMPTY]
    text += [4, 2]
    assert drafter.propose([context(text, budget=2)])[0].tokens == (3, 8)


def test_a_request_that_comes_back_is_new():
    drafter = NGram(Options(shortest=1))
    assert drafter.propose([context([1, 2, 1])])[0].tokens[:1] == (2,)
    drafter.drop(1)
    assert drafter.propose([context([1, 3, 4])]) == [EMPTY]
