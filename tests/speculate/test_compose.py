"""Drafters made of drafters: who is asked, and whose guess is taken."""

import random

import pytest

from slipstream.base.errors import InputError
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.best import Best
from slipstream.speculate.drafters.first import First
from slipstream.step.draft import EMPTY, DraftTree


class Knows:
    """Guesses the truth with chance `right`, token by token, for the requests that it knows."""

    max_draft = 4

    def __init__(self, name: str, right: float, requests=(0, 1), seed=0):
        self.name, self.right, self.requests, self.random, self.asked = name, right, requests, random.Random(seed), []

    def propose(self, contexts):
        self.asked.append([context.request for context in contexts])
        return [self.guess(context) if context.request in self.requests else EMPTY for context in contexts]

    def guess(self, context):
        end = len(context.tokens)
        return DraftTree.chain([end + at if self.random.random() < self.right else -1 for at in range(self.max_draft)], self.name)

    def drop(self, request):
        self.dropped = request


def contexts(length: int, requests=(0, 1)):
    return [DraftContext(request, list(range(length)), 4, None) for request in requests]


def test_the_first_that_has_a_guess_makes_it():
    one, two, three = Knows("one", 1, requests=(1,)), Knows("two", 1), Knows("three", 1)
    drafter = First([one, two, three])
    assert [tree.kind for tree in drafter.propose(contexts(5))] == ["two", "one"]
    assert (one.asked, two.asked, three.asked) == ([[0, 1]], [[0]], [])
    drafter.drop(7)
    assert one.dropped == two.dropped == three.dropped == 7


@pytest.mark.parametrize("kept", [1, 5], ids=["a token a step", "as far as it goes"])
def test_the_best_is_found_whether_or_not_it_was_chosen(kept):
    drafter, length, kinds = Best([Knows("poor", 0.2), Knows("good", 0.8, seed=1)]), 3, []
    for _ in range(200):
        tree = drafter.propose(contexts(length, [0]))[0]
        kinds.append(tree.kind)
        right = 0
        while right < len(tree) and tree.tokens[right] == length + right:
            right += 1
        length += min(right + 1, kept)
    assert kinds[0] == "poor" and kinds[40:].count("good") > 0.9 * len(kinds[40:])
    drafter.drop(0)
    assert not drafter._last


def test_each_request_has_the_best_that_there_is_for_it():
    drafter = Best([Knows("good", 0.9, requests=(0,)), Knows("poor", 0.1)])
    assert [tree.kind for tree in drafter.propose(contexts(4))] == ["good", "poor"]
    assert [len(tree) for tree in Best([Knows("none", 1, requests=())]).propose(contexts(4))] == [0, 0]


def test_what_cannot_be_composed():
    assert choose("first:of=ngram+suffix").max_draft == 8
    for text, said in (
        ("first:of=suffix+", "names drafters with a + between them"),
        ("best:of=suffix+ngrams", "did you mean 'ngram'"),
        ("best:of=first", "is made of drafters itself"),
    ):
        with pytest.raises(InputError, match="speculate") as error:
            choose(text)
        assert said in str(error.value)
    from pathlib import Path

    import slipstream

    demo = Path(slipstream.__file__).parent / "builtin" / "demo"
    assert choose("first:of=suffix+draft_model").beside(demo) == demo.parent / "draft"
    with pytest.raises(InputError, match="2 of them run a model"):
        choose("first:of=auto+draft_model").beside(demo)
