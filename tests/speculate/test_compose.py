"""Drafters made of drafters: who is asked, and whose guess is taken."""

import random

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.errors import InputError
from slipstream.speculate.choose import choose
from slipstream.speculate.drafter import DraftContext
from slipstream.speculate.drafters.best import Best
from slipstream.speculate.drafters.cascade import Cascade, Options
from slipstream.speculate.drafters.first import First
from slipstream.step.draft import EMPTY, ROOT, DraftTree


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


class Says:
    """Always the same guess."""

    max_draft = 3

    def __init__(self, tree: DraftTree):
        self.tree = tree

    def propose(self, contexts):
        return [self.tree] * len(contexts)


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
    for two in ("auto+draft_model", "eagle+draft_model", "early_exit+eagle"):
        with pytest.raises(InputError, match="2 of them run a model"):
            choose(f"first:of={two}").beside(demo)


@pytest.mark.parametrize("part", ["eagle(path=dummy;depth=2)", "early_exit(layers=1)", "medusa(path=dummy)", "mtp(dummy;tree=true)"])
@pytest.mark.parametrize("whole", ["first", "best"])
def test_a_part_may_have_options_and_run_a_head(whole, part):
    params, said = SamplingParams(max_tokens=20, temperature=0.8, seed=2, ignore_eos=True, logprobs=1), []  # one pass a step
    for drafter in ("none", f"{whole}:of=ngram(shortest=3)+{part}"):
        llm = LLM("dummy:tiny:fp32", speculate=drafter, control=False)
        said.append(llm.generate([[5, 6, 7, 8]], params)[0].outputs[0].token_ids)
    assert said[0] == said[1] and llm.engine.core.meter.tally.drafted > 3, "also where the text never repeats itself"


def test_a_cascade_goes_on_where_the_guess_ends():
    text = [1, 2, 3, 4, 5, 6, 7, 1]
    drafter = Cascade([Says(DraftTree((2, 3, 9), (ROOT, 0, ROOT), "one", 2))], Options(of="ngram", more=3))
    (tree,) = drafter.propose([DraftContext(0, text, 10, None)])
    assert tree == DraftTree((2, 3, 9, 4, 5, 6), (ROOT, 0, ROOT, 1, 3, 4), "one", 2)
    assert len(drafter.propose([DraftContext(0, text, 4, None)])[0]) == 4, "no more than may be checked"
    (alone,) = Cascade([Says(EMPTY)], Options(of="ngram", more=3)).propose([DraftContext(0, [*text, 2], 10, None)])
    assert alone == DraftTree.chain((3, 4, 5), "cascade 2")
    with pytest.raises(InputError, match="one drafter before"):
        choose("cascade:of=suffix+ngram")
