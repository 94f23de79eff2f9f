"""How often a step is run before the host looks: only where there is nothing for it to do, and never past anybody's end."""

import pytest

from slipstream.cost import Pace
from slipstream.scheduler import Request, Scheduler
from slipstream.scheduler.passes import most_passes
from slipstream.step import SamplingParams
from tests.scheduler.harness import Harness, make_options


def test_plain_decoding_takes_several_passes_and_ends_where_it_should():
    engine = Harness(make_options())
    for number, most in ((0, 14), (1, 20)):
        engine.add(number, (1, 2, 3 + number), max_tokens=most)
    engine.run()
    assert engine.plans[0].passes == 1, "a prompt"
    assert max(plan.passes for plan in engine.plans) == 8 and engine.model.again > 0


def test_one_pass_where_a_draft_is_checked():
    engine = Harness(make_options(max_draft=3), "right")
    engine.add(0, (1, 2, 3), max_tokens=12)
    for _ in range(3):
        assert engine.step().passes == 1


def test_rounds_where_guesses_can_be_made_within_a_step():
    """Each has pages and ends before its text does; texts that end sooner, by a token, are whole."""
    engine = Harness(make_options(max_draft=3, page_size=3, max_batch=4), "rounds", seed=3)
    for number in range(8):
        engine.add(number, (1, 2, 3 + number), max_tokens=40 + number, ignore_eos=number % 2 == 0)
    engine.run()
    rounds = [plan for plan in engine.plans if plan.passes > 1 and plan.chunks[0].draft.tokens]
    assert engine.model.kept and {plan.passes for plan in rounds} == {2, 4, 8}
    for plan in rounds:
        assert all(chunk.start + plan.passes * chunk.rows <= 3 * len(chunk.pages) for chunk in plan.chunks)


def test_who_waits_for_a_seat_waits_a_few_passes():
    """It could not be let in before one is free."""
    engine = Harness(make_options(max_batch=1))
    for number in range(2):
        engine.add(number, (1, 2, 3), max_tokens=20)
    engine.run()
    assert max(plan.passes for plan in engine.plans) == 8


@pytest.mark.parametrize(
    ("left", "most"),
    [([30], 8), ([7], 4), ([3], 2), ([1], 1), ([30] * 7 + [6], 8), ([30] * 7 + [5], 4), ([30] * 31 + [0], 8), ([30] * 3 + [1], 1)],
    ids=str,
)  # fmt: skip
def test_one_row_of_32_may_run_on_behind_its_end(left, most):
    found = []
    for number, more in enumerate(left):
        request = Request(number, [1] * 10, SamplingParams(max_tokens=40))
        request.limit, request.next, request.length = 10 + more, 9, 10
        found.append((request, 1))
    assert most_passes(found, None, make_options()) == most
    assert most_passes(found, None, make_options(max_drawn=len(left) - 1)) == 1


def test_texts_that_end_between_passes_are_whole():
    """Where their last page is full, too; what they leave in the tree is found again as it was."""
    engine = Harness(make_options(page_size=3, pages=900, max_batch=40, max_step_tokens=400), seed=5)
    for number in range(80):
        engine.add(number, (1, 2, 3, number % 11), max_tokens=60 if number % 20 else 23 + number // 20, ignore_eos=True)
    engine.run()
    behind = [plan for plan in engine.plans if any(chunk.start + plan.passes > len(chunk.pages) * 3 for chunk in plan.chunks)]
    assert behind, "none ran behind its end"


def test_one_pass_where_words_are_banned():
    engine = Harness(make_options())
    engine.add(0, (1, 2, 3), max_tokens=12, banned=((1, 2),))
    engine.run()
    assert {plan.passes for plan in engine.plans} == {1}


def test_a_request_may_look_for_guesses_after_several():
    """None was found for a while: steps of several passes go on, and ask at their end."""
    engine = Harness(make_options(max_draft=3), "none")
    engine.add(0, (1, 2, 3), max_tokens=30)
    engine.run()
    assert any(plan.passes == 8 and plan.chunks[0].draft_budget for plan in engine.plans)


def test_pages_of_others_are_not_taken_for_it():
    engine = Harness(make_options(page_size=2, pages=32, max_len=64, prefix_cache=False))
    for number in range(2):
        engine.add(number, tuple(range(9)) * 2, max_tokens=14)
    engine.run()
    assert engine.scheduler.stats.preemptions == 0 and any(1 < plan.passes < 8 for plan in engine.plans)


@pytest.mark.parametrize(("seconds", "streamed", "most"), [(0.001, True, 8), (0.004, True, 4), (0.015, True, 1), (0.015, False, 4)])
def test_they_are_short_together(seconds, streamed, most):
    """20 ms while somebody reads along, a tenth of a second else."""
    engine = Harness(make_options())
    engine.scheduler = Scheduler(engine.options, engine.watch, pace=Pace(lambda work: seconds))
    engine.add(0, (1, 2, 3), max_tokens=30, streamed=streamed)
    assert [engine.step().passes for _ in range(2)] == [1, most]
