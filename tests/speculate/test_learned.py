"""Heads read every token of the text with the state before it; what they draw becomes a chain with second choices beside it."""

import itertools
import math
import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from slipstream import LLM, SamplingParams
from slipstream.arch.heads import KINDS
from slipstream.engine.build import BUILTIN
from slipstream.speculate.drafter import WINDOW, DraftContext, Feed, States
from slipstream.speculate.drafters.eagle import Eagle, Options
from slipstream.speculate.learned import branched, crossed
from slipstream.step.draft import ROOT


class Remembering:
    """A head that says (token before + 1), then others, and checks that each token comes with the state of the position before it."""

    vocab, max_len, ahead = 1000, 10_000, 1

    def __init__(self, max_rows: int = 8, max_asks: int = 4):
        self.max_rows, self.max_asks = max_rows, max_asks
        self.read: dict[int, list[tuple[int, int | None]]] = {}  # request -> (token, position of the state) of each place
        self.room: dict[int, int] = {}
        self.before: list[int] = []  # requests of the call before
        self.drawn: list[int] = []

    def reserve(self, request, length):
        self.room[request] = max(length, self.room.get(request, 0))
        return True

    def run(self, feeds):
        assert 0 < sum(len(feed.tokens) for feed in feeds) <= self.max_rows and sum(feed.ask is not None for feed in feeds) <= self.max_asks
        assert len({feed.states is None for feed in feeds}) == 1
        for feed in feeds:
            read = self.read.setdefault(feed.request, [])
            assert feed.start <= len(read), "there is a hole before the tokens"
            if feed.states is None:
                assert feed.request in self.before and len(feed.tokens) == 1
                read[feed.start :] = [(feed.tokens[0], None)]
            else:
                assert len(feed.states) == len(feed.tokens)
                read[feed.start :] = [(token, int(state)) for token, state in zip(feed.tokens, feed.states[:, 0], strict=True)]
            assert len(read) <= self.room[feed.request]
        self.before = [feed.request for feed in feeds]
        self.drawn = [(feed.tokens[-1] + 1) % self.vocab for feed in feeds if feed.ask is not None]
        return list(self.drawn)

    def chain(self, feeds, count):
        out = []
        for _ in range(count):
            out.append(self.run(feeds))
            feeds = [Feed(f.request, f.start + 1, [token], f.ask) for f, token in zip(feeds, out[-1], strict=True)]
        return [list(own) for own in zip(*out, strict=True)]

    def again(self):
        self.drawn = [(token + 100) % self.vocab for token in self.drawn]
        return list(self.drawn)

    def drop(self, request):
        self.read.pop(request, None)


def states(request: int, start: int, stop: int) -> States:
    """Each state says its position."""
    return States(request, start, torch.arange(start, stop)[:, None].float())


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_what_was_read_is_the_text_with_its_states(seed, max_rows):
    rng = random.Random(seed)
    head, drafter = Remembering(max_rows), None
    drafter = Eagle(head, (2,), Options(nodes=5, depth=3, width=3))
    texts = {number: [rng.randrange(90) for _ in range(rng.randrange(2, 20))] for number in range(3)}
    seen = {number: rng.randrange(len(texts[number])) if rng.random() < 0.3 else 0 for number in texts}  # a prefix hit
    begins = dict(seen)
    for _ in range(15):
        chunks = [number for number in texts if seen[number] < len(texts[number]) - 1]
        drafter.watch([states(number, seen[number], len(texts[number]) - 1) for number in chunks])
        seen.update({number: len(texts[number]) - 1 for number in chunks})
        asked = rng.sample(sorted(texts), rng.randrange(1, 4))
        contexts = [DraftContext(number, texts[number], rng.randrange(1, 8), None, rng.randrange(5)) for number in asked]
        for context, tree in zip(contexts, drafter.propose(contexts), strict=True):
            number, text, budget = context.request, context.tokens, context.budget
            reading = drafter._read.get(number)
            if reading is not None and reading.read:
                want = [(text[place], place - 1) for place in range(begins[number] + 1, len(text))]
                assert head.read[number][: reading.read] == want[: reading.read]
            tree.check()
            if tree.tokens:
                assert reading.read == len(text) - 1 - begins[number]
                length = min(3, budget, context.passes)
                assert tree.tokens[:length] == tuple((text[-1] + 1 + step) % 1000 for step in range(length))
                assert length == tree.passes and len(tree) == min(budget, 5, length + 2)
        for number in texts:  # some of the guess is kept, then comes another token
            last = texts[number][-1]
            texts[number] += [(last + 1 + step) % 1000 for step in range(rng.randrange(6))] + [rng.randrange(90)]
        if rng.random() < 0.2:
            drafter.drop(gone := rng.randrange(3))
            texts[gone] = texts[gone][: rng.randrange(2, len(texts[gone]))]
            seen[gone] = begins[gone] = rng.randrange(len(texts[gone]))


def test_states_that_waited_too_long_are_forgotten_and_the_text_begins_behind_them():
    head = Remembering(max_rows=2 * WINDOW)
    drafter, text = Eagle(head, (2,), Options()), list(range(100)) * 6
    drafter.watch([states(1, 0, 30)])
    assert drafter.propose([DraftContext(1, text[:31], 2, None)])[0].tokens == (31, 32)
    drafter.watch([states(1, 30, 40)])
    known = 40 + 2 * WINDOW
    drafter.watch([states(1, 40, known)])
    drafter.propose([DraftContext(1, text[: known + 1], 1, None)])
    assert head.read[1] == [(text[place], place - 1) for place in range(known - WINDOW + 1, known + 1)]
    drafter.watch([states(1, known, known + 1)])
    drafter.propose([DraftContext(1, text[: known + 2], 1, None)])
    assert head.read[1][-1] == (text[known + 1], known)


def test_second_choices_stand_beside_the_chain():
    tree = branched([[1, 10, 20], [2, 11, 21], [3, 12, 22]], 7, "eagle", 3)
    tree.check()
    assert tree.tokens == (1, 2, 3, 10, 11, 12, 20)
    assert tree.parents == (ROOT, 0, 1, ROOT, 0, 1, ROOT)
    assert branched([[1, 10], [2, 11]], 1, "eagle", 2).tokens == (1,)
    assert branched([[7, 7, 0], [2, 0, 0]], 9, "eagle", 2).tokens == (7, 2, 0, 0), "a token that comes again is left out"
    assert not branched([], 5, "eagle", 0).tokens


def test_the_likeliest_tree_of_guesses_that_do_not_know_each_other():
    """Beside a search through all of them."""
    rng = random.Random(4)
    for _ in range(50):
        shares = [sorted((rng.random() for _ in range(3)), reverse=True) for _ in range(3)]
        chosen = [[(10 * depth + rank, math.log(share)) for rank, share in enumerate(row)] for depth, row in enumerate(shares)]
        nodes = rng.randrange(1, 30)
        tree = crossed(chosen, nodes, "medusa", 1)
        tree.check()
        every = {
            tuple(token for token, _ in path): sum(share for _, share in path)
            for depth in range(1, 4) for path in itertools.product(*chosen[:depth])
        }  # fmt: skip
        best = sorted(every, key=lambda path: -every[path])[:nodes]
        assert [tuple(tree.tokens[node] for node in tree.path(at)) for at in range(len(tree))] == best
    assert not crossed([], 4, "medusa", 1).tokens and len(crossed([[(1, 0.0)]], 9, "medusa", 1)) == 1


def test_second_choices_are_right_where_first_ones_are_not():
    """A head that is not trained, at a temperature at which noise decides: it draws with the noise that the model draws with."""
    tallies = []
    for width in (1, 4):
        llm = LLM("dummy:tiny:bf16", speculate=f"eagle:path=dummy,nodes=4,depth=1,width={width}", control=False)
        llm.generate([[5, 6, 7, 8]], SamplingParams(max_tokens=300, ignore_eos=True, temperature=1.5, seed=3, top_k=40))
        tallies.append(llm.engine.core.meter.tally)
    assert tallies[1].accepted > 1.3 * tallies[0].accepted > 0


def test_the_built_in_model_brings_a_head_that_is_often_right():
    """Of every kind; tokens per drafted step on one text, bounds somewhat below what was measured."""
    params = SamplingParams(max_tokens=160, ignore_eos=True, temperature=0.8, seed=1)
    prompt = "It was a dark morning, and the old man had not yet come down to"
    plain = LLM().generate(prompt, params)[0].outputs[0].token_ids
    often = {"eagle": 2.6, "mtp": 2.4, "redrafter": 2.2, "medusa": 1.8, "blockwise": 1.15, "firp": 2.0, "streaming": 1.9}
    assert sorted(often) == sorted(KINDS)
    for kind, least in often.items():
        assert (BUILTIN / kind / "model.safetensors").stat().st_size <= 2_000_000
        llm = LLM(speculate=kind, control=False)
        assert llm.generate(prompt, params)[0].outputs[0].token_ids == plain, kind
        assert llm.engine.core.meter.tally.per_draft > least, kind
        llm.close()
