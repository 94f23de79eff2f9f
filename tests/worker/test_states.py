"""Hidden states for drafters: those of every token that stays, once, in order, and to the bit what a plain run of the whole text has."""

import functools
from dataclasses import replace

import pytest
import torch

from slipstream import LLM, InputError, SamplingParams
from slipstream.arch import shape
from slipstream.model.decoder import Decoder
from slipstream.ops import Kernels
from slipstream.scheduler import passes as planned
from slipstream.weights.dummy import Dummy
from tests.model.paged import Paged, Rows
from tests.promises import oracles
from tests.tools.steps import watch_steps

MODEL, LEVELS = "dummy:tiny:fp32", (3, 0, 2, 1)  # of two layers; in this order
PROMPTS = [[5, 6, 7, 8] * 9, [9, 10, 11], [5, 6, 7, 8] * 5 + [12]]
PARAMS = SamplingParams(max_tokens=24, temperature=0.9, seed=4, ignore_eos=True)


class Watching(oracles.RandomTree):
    """Keeps what it is shown, and guesses a tree in which the truth lies scattered."""

    def __init__(self, known=(), levels=LEVELS):
        super().__init__(known, seed=3)
        self.levels = levels
        self.seen: dict[int, dict[int, torch.Tensor]] = {}  # request -> position -> states
        self.begins: dict[int, int] = {}
        self.dropped: list[dict[int, torch.Tensor]] = []

    def watch(self, states):
        for one in states:
            seen = self.seen.setdefault(one.request, {})
            begin = self.begins.setdefault(one.request, one.start)
            assert one.start == begin + len(seen), "positions follow each other"
            seen.update({one.start + at: row.clone() for at, row in enumerate(one.rows)})

    def drop(self, request):
        self.begins.pop(request, None)
        if request in self.seen:
            self.dropped.append(self.seen.pop(request))


def texts(llm: LLM) -> list[list[int]]:
    return [[*prompt, *out.outputs[0].token_ids] for prompt, out in zip(PROMPTS, llm.generate(PROMPTS, PARAMS), strict=True)]


@functools.cache
def truth(kernels: str | None):
    """The texts, and the states of each when it is read as one prompt by an engine that guesses nothing."""
    said, states = texts(LLM(MODEL, kernels=kernels)), []
    for text in said:
        drafter = Watching()
        llm = LLM(MODEL, speculate=drafter, control=False, prefix_cache=False, kernels=kernels)
        llm.generate([text], SamplingParams(max_tokens=1))
        (seen,) = drafter.seen.values() or drafter.dropped
        states.append([seen[position] for position in range(len(text))])
    return said, states


@pytest.mark.parametrize("where", [{}, {"kernels": "reference"}], ids=["replayed", "op by op"])
def test_levels_are_what_their_names_say(where):
    kernels, spec = Kernels(only=where.get("kernels")), shape("tiny")
    weights, text, drafter = Dummy(spec, "fp32"), PROMPTS[0], Watching()
    llm = LLM(MODEL, speculate=drafter, control=False, **where)
    first = llm.generate([text], SamplingParams(max_tokens=1, temperature=0))[0].outputs[0].token_ids[0]
    (seen,) = drafter.seen.values() or drafter.dropped
    read, embeddings, last, one = torch.stack([seen[at] for at in range(len(text))]).split(spec.hidden, 1)
    assert torch.equal(embeddings, weights.get("embed.weight")[text])
    assert int((read[-1:] @ weights.get("head.weight").T).argmax()) == first
    normed = torch.nn.functional.rms_norm(last, (spec.hidden,), weights.get("norm.weight"), spec.norm_eps)
    torch.testing.assert_close(read, normed, rtol=1e-5, atol=1e-5)
    short = Decoder(replace(spec, layers=spec.layers[:1]), weights, kernels, 64, 1, max_len=64)
    paged = Paged(short)
    hidden = short.forward(paged.batch((Rows(0, text),))[0], paged.pool)
    assert torch.equal(one, hidden), "what layer 1 reads is what a model of one layer ends with"


@pytest.mark.parametrize(
    "options",
    [
        dict(max_chunk=7),
        dict(page_size=1),
        dict(max_batch=3, kv_tokens=72, max_len=60, page_size=4),
        dict(kernels="reference"),
    ],
    ids=["chunks", "pages of one", "preempted", "op by op"],
)
def test_kept_rows_have_the_states_of_a_plain_run(options):
    said, states = truth(options.get("kernels"))
    drafter = Watching(said)
    llm = LLM(MODEL, speculate=drafter, control=False, prefix_cache=False, **options)
    assert texts(llm) == said, "watching changed a text"
    assert ("kv_tokens" in options) == (llm.engine.core.scheduler.stats.preemptions > 0)
    kept = [*drafter.dropped, *drafter.seen.values()]
    longest = {max(one): one for one in kept}
    for text, rows in zip(said, states, strict=True):
        mine = longest[len(text) - 2]  # the last token is said, and never read
        assert sorted(mine) == list(range(len(text) - 1))
        for position, row in mine.items():
            assert torch.equal(row, rows[position]), f"other states at {position}"


@pytest.mark.parametrize("kernels", [None, "reference"], ids=["replayed", "op by op"])
def test_every_pass_of_a_step_has_its_states(kernels, monkeypatch):
    """Without guesses a step takes several passes, which are watched at its end."""
    monkeypatch.setattr(planned, "WHOLE", 100.0)  # on a machine that is busy with other things, too
    said, states = truth(kernels)
    drafter, passes = Watching(), set()
    llm = LLM(MODEL, speculate=drafter, prefix_cache=False, kernels=kernels)
    watch_steps(llm.engine.core.executor.runner, lambda plan, result: passes.add(result.passes))
    assert texts(llm) == said and max(passes) > 1
    kept = {max(one): one for one in [*drafter.dropped, *drafter.seen.values()]}
    for text, rows in zip(said, states, strict=True):
        mine = kept[len(text) - 2]
        assert sorted(mine) == list(range(len(text) - 1))
        assert all(torch.equal(row, rows[position]) for position, row in mine.items())


def test_what_the_prefix_cache_had_is_not_seen_again():
    said, states = truth(None)
    drafter = Watching(said)
    llm = LLM(MODEL, speculate=drafter, control=False, page_size=4)
    texts(llm)
    drafter.dropped.clear()
    assert texts(llm) == said
    kept = [*drafter.dropped, *drafter.seen.values()]
    assert min(min(one) for one in kept if max(one) > 50) >= 32, "the prompt of 36 tokens lay in the cache, but for the last ones"
    for one in kept:
        (at,) = [number for number, text in enumerate(said) if len(text) - 2 == max(one)]
        assert all(torch.equal(row, states[at][position]) for position, row in one.items())


def test_nothing_is_kept_unless_asked_for():
    llm = LLM(MODEL, speculate="ngram")
    decoder = llm.engine.executor.runner.decoder
    assert decoder.levels == () and not hasattr(decoder, "_tapped")


def test_a_level_that_the_model_lacks_is_refused():
    with pytest.raises(InputError, match="levels=.*between 0 and 3"):
        LLM(MODEL, speculate=Watching(levels=(4,)))
