"""The time budget: who reads along keeps his pace, who waits for a prompt gets on, and nobody else notices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.base.errors import InputError
from slipstream.cost import Work
from slipstream.scheduler import Scheduler, State
from slipstream.scheduler.budget import LEAST, PATIENCE
from tests.scheduler.harness import Harness, guess, make_options

TEXT = tuple(range(10)) * 40
BIG = {"pages": 600, "page_size": 4, "max_len": 420, "max_step_tokens": 512, "max_chunk": 512, "prefix_cache": False}


def trunks(plan):
    return {chunk.request: len(chunk.trunk) for chunk in plan.chunks}


def with_streams(count: int, *, streamed: bool = True, **changes) -> Harness:
    """`count` requests that decode, on a machine that is known by now."""
    engine = Harness(make_options(**(BIG | changes)))
    for number in range(count):
        engine.add(number, TEXT[number : number + 3], max_tokens=300, streamed=streamed)
    for _ in range(20):
        engine.step()
    return engine


def gaps_while_a_prompt_comes(engine: Harness) -> list[float]:
    """Times of the steps until a prompt of 400 tokens has its first token."""
    engine.add(99, TEXT, max_tokens=2)
    gaps = []
    while not engine.output[99]:
        before = engine.now
        engine.step()
        gaps.append(engine.now - before)
    return gaps


def test_a_prompt_does_not_stop_the_streams():
    """A plain step of three takes about 0.04 s, the whole prompt 1.5 s."""
    gaps = gaps_while_a_prompt_comes(with_streams(3, target_itl=0.16))
    assert max(gaps) <= 0.1601 and sum(gap > 0.12 for gap in gaps) > len(gaps) // 2, "and uses the time there is"


def test_without_a_target_it_does():
    engine = with_streams(3, target_itl=0.0)
    engine.add(99, TEXT, max_tokens=2)
    assert trunks(engine.step()) == {0: 1, 1: 1, 2: 1, 99: 400}


def test_nor_for_a_batch_that_nobody_reads():
    engine = with_streams(3, streamed=False, target_itl=0.1)
    engine.add(99, TEXT, max_tokens=2, streamed=False)
    assert trunks(engine.step())[99] == 400


def test_one_reader_is_enough():
    engine = with_streams(3, streamed=False, target_itl=0.1)
    engine.add(50, TEXT[:3], max_tokens=100)
    engine.step()
    engine.add(99, TEXT, max_tokens=2, streamed=False)
    assert trunks(engine.step())[99] < 40


def test_prompts_alone_have_more_time():
    """Nobody waits for a token, but whoever comes now waits for the step."""
    engine = Harness(make_options(**BIG, target_itl=0.04))
    for _ in range(8):
        engine.pace.observe(Work.of([(0, 100, ())], 1), 3 * guess(Work.of([(0, 100, ())], 1)))
    engine.add(0, TEXT, max_tokens=2)
    engine.step()
    assert 0.04 * PATIENCE / 2 < engine.now <= 0.04 * PATIENCE * 1.001
    assert LEAST < trunks(engine.plans[-1])[0] < 400


def test_a_target_that_cannot_be_kept_leaves_prompts_half_of_the_time():
    gaps = gaps_while_a_prompt_comes(with_streams(3, target_itl=0.001))
    plain = 3 * guess(Work.of([(20, 1, ())] * 3, 3))
    assert 1.5 * plain < max(gaps) < 2.1 * plain


def test_prompts_get_on_whatever_is_predicted():
    """The least is shared: what one prompt does not need is for the next."""
    engine = with_streams(2, target_itl=0.1)
    engine.pace.predict = lambda work, passes=1: 10.0 ** min(work.rows, 100)
    engine.add(97, TEXT[:3], max_tokens=2)
    engine.add(98, TEXT, max_tokens=2)
    engine.add(99, TEXT[5:], max_tokens=2)
    assert trunks(engine.step()) == {0: 1, 1: 1, 97: 3, 98: LEAST - 3}
    assert trunks(engine.step()) == {0: 1, 1: 1, 97: 1, 98: 1 + LEAST}, "its own row and all of the least"
    engine.run()


def test_drafts_stay_within_the_target():
    engine = Harness(make_options(**BIG, target_itl=0.1, max_draft=60), "right")
    engine.add(0, TEXT[:3], max_tokens=300)
    for _ in range(12):
        began = engine.now
        plan = engine.step()
    assert 0.07 < engine.now - began <= 0.1001 and 10 < len(plan.chunks[0].draft) < 60


def test_drafts_go_on_where_a_plain_step_takes_longer():
    engine = Harness(make_options(**BIG, target_itl=0.001, max_draft=60), "right")
    engine.add(0, TEXT[:3], max_tokens=300)
    for _ in range(12):
        plan = engine.step()
    assert 5 < len(plan.chunks[0].draft) < 15


def test_a_slower_machine_is_noticed():
    """Steps take twice as long from now on: three of them are too long at most."""
    engine = with_streams(3, target_itl=0.3)
    learn = engine.scheduler.observe
    engine.scheduler.observe = lambda work, seconds: learn(work, 2 * seconds)
    gaps = [2 * gap for gap in gaps_while_a_prompt_comes(engine)]
    assert sum(gap > 0.31 for gap in gaps) <= 3


def test_a_target_needs_a_pace():
    with pytest.raises(InputError, match="target_itl"):
        Scheduler(make_options(target_itl=0.1))
    with pytest.raises(InputError, match="target_itl"):
        make_options(target_itl=-1.0)


@settings(max_examples=60, deadline=None)
@given(
    target=st.sampled_from([0.001, 0.04, 0.1, 1.0]),
    requests=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 30), st.integers(0, 4), st.booleans()), min_size=1, max_size=10),
    rows=st.sampled_from([8, 20, 512]),
)
def test_everybody_gets_on_in_every_step(target, requests, rows):
    """Harness checks rows and time of every step; here: whoever runs comes closer to his end by at least a row a step."""
    engine = Harness(make_options(**(BIG | {"max_step_tokens": rows}), target_itl=target))
    waiting = list(enumerate(requests))
    while waiting or engine.scheduler.has_work:
        if waiting:
            number, (length, most, steps, streamed) = waiting.pop(0)
            engine.add(number, TEXT[:length], max_tokens=most, sample=number, streamed=streamed)
            for _ in range(steps):
                engine.step()
        running = [(request, request.cached) for request in engine.requests.values() if request.state is State.RUNNING]
        engine.step()
        assert all(request.cached > cached for request, cached in running if request.state is State.RUNNING)
    engine.check_ends()
