"""A draft model reads every token of the text at its place, and what it guessed wrong is read over."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream import LLM, SamplingParams
from slipstream.speculate.drafter import DraftContext, Feed
from slipstream.speculate.drafters.draft_model import DraftModel, Options


class Remembering:
    """A Forward that says (token before + 1) and checks that whatever stands before a feed was read."""

    vocab, max_len = 100, 10_000

    def __init__(self, max_rows: int = 8, max_asks: int = 4):
        self.max_rows, self.max_asks = max_rows, max_asks
        self.read: dict[int, list[int]] = {}
        self.room: dict[int, int] = {}
        self.calls: list[int] = []

    def reserve(self, request, length):
        self.room[request] = max(length, self.room.get(request, 0))
        return True

    def run(self, feeds):
        self.calls.append(sum(len(feed.tokens) for feed in feeds))
        assert 0 < self.calls[-1] <= self.max_rows and sum(feed.ask is not None for feed in feeds) <= self.max_asks
        for feed in feeds:
            read = self.read.setdefault(feed.request, [])
            assert feed.start <= len(read), "there is a hole before the tokens"
            read[feed.start :] = feed.tokens
            assert len(read) <= self.room[feed.request]
            assert feed.ask is None or feed.ask.position == len(read)
        return [(feed.tokens[-1] + 1) % self.vocab for feed in feeds if feed.ask is not None]

    def chain(self, feeds, count):
        out = []
        for _ in range(count):
            out.append(self.run(feeds))
            asks = [replace(feed.ask, position=feed.ask.position + 1) for feed in feeds]
            feeds = [Feed(f.request, f.start + 1, [token], ask) for f, token, ask in zip(feeds, out[-1], asks, strict=True)]
        return [list(own) for own in zip(*out, strict=True)]

    def drop(self, request):
        self.read.pop(request, None)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_what_was_read_is_the_text_and_the_guess(seed, max_rows):
    rng = random.Random(seed)
    forward = Remembering(max_rows)
    drafter = DraftModel(forward, Options(nodes=5))
    texts = {number: [rng.randrange(90) for _ in range(rng.randrange(1, 20))] for number in range(3)}
    for _ in range(15):
        asked = rng.sample(sorted(texts), rng.randrange(1, 4))
        contexts = [DraftContext(number, texts[number], rng.randrange(1, 8), voice=None) for number in asked]
        for context, tree in zip(contexts, drafter.propose(contexts), strict=True):
            text, guess = context.tokens, list(tree.tokens)
            sure = drafter._read[context.request].sure
            assert forward.read.get(context.request, [])[:sure] == text[:sure]
            if guess:
                assert len(guess) == min(5, context.budget)
                assert guess == [(text[-1] + 1 + step) % 100 for step in range(len(guess))]
                assert forward.read[context.request][: len(text) + len(guess) - 1] == text + guess[:-1]
        for number in texts:  # some of the guess is kept, then comes another token
            last = texts[number][-1]
            texts[number] += [(last + 1 + step) % 100 for step in range(rng.randrange(7))] + [rng.randrange(90)]
        if rng.random() < 0.2:
            drafter.drop(gone := rng.randrange(3))
            texts[gone] = texts[gone][: rng.randrange(1, len(texts[gone]))]


def test_after_full_acceptance_two_tokens_are_read_and_nothing_twice():
    forward = Remembering(max_rows=64)
    drafter, text = DraftModel(forward, Options(nodes=3)), [1, 2, 3, 4]
    assert drafter.propose([DraftContext(1, text, 3, voice=None)])[0].tokens == (5, 6, 7)
    assert forward.calls == [4, 1, 1]
    text += [5, 6, 7, 8]
    drafter.propose([DraftContext(1, text, 3, voice=None)])
    assert forward.calls[3:] == [2, 1, 1], "7, which was guessed last and never read, and 8"
    text += [9, 50]
    drafter.propose([DraftContext(1, text, 3, voice=None)])
    assert forward.calls[6:] == [1, 1, 1], "50 alone: 9 was read"


def test_without_room_there_is_no_guess():
    forward = Remembering()
    forward.reserve = lambda request, length: False
    assert not DraftModel(forward, Options(nodes=3)).propose([DraftContext(1, [1, 2], 3, voice=None)])[0].tokens
    assert not forward.calls


def test_a_model_that_drafts_for_itself_is_always_right():
    """Any acceptance below all of it would be a fault in positions, pages or noise."""
    params = SamplingParams(max_tokens=41, ignore_eos=True, temperature=0.9, seed=3, repetition_penalty=1.2)
    plain = LLM("dummy:tiny:bf16", page_size=4).generate([[5, 6, 7, 8]] * 2, params)
    llm = LLM("dummy:tiny:bf16", page_size=4, speculate="draft_model:path=dummy:tiny:bf16,nodes=4", control=False)
    drafted = llm.generate([[5, 6, 7, 8]] * 2, params)
    assert [out.outputs[0].token_ids for out in drafted] == [out.outputs[0].token_ids for out in plain]
    gained = [step.tokens / step.requests for step in llm.engine.core.meter.steps if step.work.rows]
    assert gained == [1, *[5] * 8]


@pytest.mark.parametrize("heat", [0, 0.9])
def test_so_is_its_tree(heat):
    """Every node of the tree is read with what stands before it and nothing else."""
    params = SamplingParams(max_tokens=40, ignore_eos=True, temperature=heat, seed=3, repetition_penalty=1.2)
    plain = LLM("dummy:tiny:bf16", page_size=4).generate([[5, 6, 7, 8], [5, 6]], params)
    llm = LLM("dummy:tiny:bf16", page_size=4, speculate="draft_model:dummy:tiny:bf16,nodes=20,tree=true,depth=2,width=3", control=False)
    drafted = llm.generate([[5, 6, 7, 8], [5, 6]], params)
    assert [out.outputs[0].token_ids for out in drafted] == [out.outputs[0].token_ids for out in plain]
    gained = [step.tokens / step.requests for step in llm.engine.core.meter.steps if step.work.rows]
    assert gained[:10] == [1, *[3] * 9], "with two tokens ahead all that may be right is in it; near the end a draft is smaller"


@pytest.mark.parametrize("heat", [0, 0.9])
def test_look_ups_for_the_small_model_save_calls_and_change_no_guess(heat):
    """A model that drafts for itself, on a text that repeats itself: it is still always right, in fewer calls."""
    params = SamplingParams(max_tokens=41, ignore_eos=True, temperature=heat, seed=3, logit_bias={token: 9.0 for token in (5, 6, 7)})
    prompts, calls, said = [[5, 6, 7, 8] * 4, [5, 6]], [], []
    for drafter in ("draft_model", "staged"):
        llm = LLM("dummy:tiny:bf16", page_size=4, speculate=f"{drafter}:path=dummy:tiny:bf16,nodes=7", control=False)
        forward = llm.engine.executor.runner.drafter.other._forward
        calls.append(0)
        for name in ("run", "branch"):
            call = getattr(forward, name)
            setattr(forward, name, lambda some, call=call: calls.__setitem__(-1, calls[-1] + 1) or call(some))
        said.append([out.outputs[0].token_ids for out in llm.generate(prompts, params)])
        gained = [step.tokens / step.requests for step in llm.engine.core.meter.steps if step.work.rows]
        assert gained == [1, *[8] * 5]
    assert said[0] == said[1]
    assert calls[1] < (0.8 if heat == 0 else 0.95) * calls[0]
