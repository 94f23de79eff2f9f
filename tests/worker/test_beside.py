"""Room beside: pages are given up to the last position and come back; what is read in pieces reads as in one."""

import pytest
import torch

from slipstream import LLM
from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.speculate.drafter import Branch, Feed
from slipstream.step import Admission, SamplingParams
from slipstream.worker.beside import Beside
from slipstream.worker.pool import KVPool

PAGES, PAGE, LONGEST = 8, 8, 20
TEXT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture(scope="module")
def made():
    kernels = Kernels()
    return load_model("dummy:tiny:bf16", kernels, max_rows=16, max_logit_rows=4, max_len=LONGEST), kernels


def beside(made, requests: int = 4) -> Beside:
    decoder, kernels = made
    pool = KVPool(decoder.pool_shape(PAGES, PAGE), "bf16", kernels)
    return Beside(decoder, pool, Sampler(kernels, 4), requests, max_rows=16)


def test_no_room_past_the_longest_text_even_where_the_page_goes_on(made):
    model = beside(made)
    assert model.reserve(1, LONGEST)
    assert not model.reserve(1, LONGEST + 1), "the third page has 24 places, the model knows 20"


def test_pages_and_seats_come_back(made):
    model = beside(made, requests=3)
    assert [model.reserve(number, LONGEST) for number in range(3)] == [True, True, False], "8 pages, 3 each"
    assert model.reserve(2, 2 * PAGE) and not model.reserve(3, 1), "three seats"
    model.drop(0)
    model.drop(0)
    assert model.reserve(3, LONGEST) and not model.reserve(4, 1)
    for number in range(1, 5):
        model.drop(number)
    assert model._pages.free == PAGES and len(model._seats) == 3


def test_pieces_read_as_the_whole(made):
    voice = Voice.of(Admission(0, (1,), 1, SamplingParams(temperature=0.8), seed=3), made[0].spec.vocab)
    ask = SampleRow(voice, len(TEXT))
    model = beside(made)
    for number in (1, 2):
        assert model.reserve(number, LONGEST)
    (whole,) = model.run([Feed(1, 0, TEXT, ask)])
    assert model.run([Feed(2, 0, [1, 2, 3])]) == []
    model.run([Feed(2, 0, TEXT[:4]), Feed(1, len(TEXT), [3, 4])])
    assert model.run([Feed(2, 4, TEXT[4:-1]), Feed(1, len(TEXT), [whole])]) == []
    assert model.run([Feed(1, len(TEXT), [9], SampleRow(voice, 11)), Feed(2, len(TEXT) - 1, TEXT[-1:], ask)])[1] == whole


@pytest.mark.parametrize("drafter", ["draft_model:path=dummy:tiny:bf16", "eagle:path=dummy", "mtp:path=dummy"])
@pytest.mark.parametrize("kernels", [None, "reference"], ids=["recorded", "op by op"])
def test_going_on_in_one_call_draws_what_single_calls_draw(drafter, kernels):
    llm = LLM("dummy:tiny:bf16", speculate=drafter, kernels=kernels, page_size=4)
    model = llm.engine.executor.runner.drafter.other._forward
    kinds = SamplingParams(temperature=0.9), SamplingParams(temperature=0), SamplingParams(top_k=3, top_p=0.8)
    voices = [Voice.of(Admission(number, (1,), 1, params, seed=number), model.vocab) for number, params in enumerate(kinds)]
    texts, states = (TEXT, TEXT[:3], TEXT[4:]), torch.randn(len(TEXT), 64, generator=torch.Generator().manual_seed(1))
    for count, chosen in ((4, (0, 1, 2)), (2, (2, 0)), (4, (1, 2)), (1, (0,))):  # recorded once for each count, for any requests
        found = []
        for go_on in (model.chain, model._one_by_one):
            feeds = []
            for number in chosen:
                text = texts[number]
                assert model.reserve(number, len(text) + count)
                feeds.append(Feed(number, 0, text, SampleRow(voices[number], len(text)), states[: len(text)]))
            first = model.run(feeds)
            asks = [SampleRow(voices[number], len(texts[number]) + 1) for number in chosen]
            further = [Feed(n, len(texts[n]), [token], ask) for n, token, ask in zip(chosen, first, asks, strict=True)]
            found.append(go_on(further, count))
        assert found[0] == found[1]
        assert [len(own) for own in found[0]] == [count] * len(chosen)


@pytest.mark.parametrize("drafter", ["draft_model:path=dummy:tiny:bf16,tree=true", "eagle:path=dummy,tree=true"])
@pytest.mark.parametrize("kernels", [None, "reference"], ids=["recorded", "op by op"])
def test_a_branch_is_read_as_if_it_were_the_text(drafter, kernels):
    """Each path of a tree of two places and three depths gives the ranks that it gives as a chain of single tokens."""
    llm = LLM("dummy:tiny:bf16", speculate=drafter, kernels=kernels, page_size=4)
    model = llm.engine.executor.runner.drafter.other._forward
    voice = Voice.of(Admission(0, (1,), 1, SamplingParams(temperature=0.9), seed=5), model.vocab)
    states = torch.randn(len(TEXT), 64, generator=torch.Generator().manual_seed(1))
    layers = [[(0,), (1,)], [(0, 2), (0, 3)], [(0, 3, 4), (0, 2, 5)]]
    token, end = {place: 20 + place for place in range(6)}, len(TEXT)

    def ask(depth: int) -> SampleRow:
        return SampleRow(voice, end + depth)

    assert model.reserve(0, end + 6)
    model.run([Feed(0, 0, TEXT, ask(0), states)])
    found = {(): model.ranked(3)[0]}
    for layer in layers:
        model.branch([Branch(0, end, path, token[path[-1]], ask(len(path))) for path in layer])
        found |= dict(zip(layer, model.ranked(3), strict=True))
    for path in layers[2]:
        model.run([Feed(0, 0, TEXT, ask(0), states)])
        assert model.ranked(3)[0] == found[()]
        for depth, place in enumerate(path):
            model.run([Feed(0, end + depth, [token[place]], ask(depth + 1))])
            assert model.ranked(3)[0] == found[path[: depth + 1]]
    shares = [share for _, share in found[()]]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and shares[0] < 0
