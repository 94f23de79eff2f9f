"""Room beside: pages are given up to the last position and come back; what is read in pieces reads as in one."""

import pytest

from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.sampling.sampler import Sampler, SampleRow, Voice
from slipstream.speculate.drafter import Feed
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
