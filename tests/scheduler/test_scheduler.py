import sys
from types import SimpleNamespace

import pytest

from slipstream.base.errors import BackendError, CapacityError, InputError
from slipstream.scheduler import Scheduler, State
from slipstream.scheduler.queue import Queue
from slipstream.step import DraftTree, Outcome, Result
from tests.scheduler.harness import Harness, make_options

TEXT = tuple(range(10)) * 3


def shape(plan):
    """(request, trunk, nodes) of each chunk."""
    return [(chunk.request, len(chunk.trunk), len(chunk.draft)) for chunk in plan.chunks]


def test_long_prompts_are_cut_and_decodes_keep_running():
    engine = Harness(make_options(max_step_tokens=8, max_chunk=6))
    engine.add(0, TEXT[:3])
    engine.add(1, TEXT[5:25])
    assert shape(engine.step()) == [(0, 3, 0), (1, 5, 0)]
    assert shape(engine.step()) == [(0, 1, 0), (1, 6, 0)]
    engine.add(2, TEXT[7:12])
    assert shape(engine.step()) == [(0, 1, 0), (1, 6, 0), (2, 1, 0)]
    assert shape(engine.step()) == [(0, 1, 0), (1, 3, 0), (2, 4, 0)]
    engine.run()


def test_every_running_request_gets_a_row_in_every_step():
    """However long the prompts before it and however small the budget."""
    engine = Harness(make_options(max_step_tokens=5, max_batch=8, max_chunk=40, pages=200))
    for number in range(12):
        engine.add(number, TEXT[number : number + (2 if number % 3 else 17)], max_tokens=9)
    while engine.scheduler.has_work:
        before = [number for number, request in engine.requests.items() if request.state is State.RUNNING]
        plan = engine.step()
        assert set(before) <= {chunk.request for chunk in plan.chunks}
        assert len(plan.chunks) <= 5
    engine.check_ends()


def test_drafts_take_only_what_is_left():
    engine = Harness(make_options(max_step_tokens=10, max_draft=6), "right")
    engine.add(0, TEXT[:4], max_tokens=30)
    engine.step()
    assert shape(engine.step()) == [(0, 1, 6)]
    engine.add(1, TEXT[3:10], max_tokens=30)
    assert shape(engine.step()) == [(0, 1, 2), (1, 7, 0)]
    assert shape(engine.step()) == [(0, 1, 6), (1, 1, 2)]
    engine.run()
    assert engine.model.kept == engine.model.drafted > 20


def test_no_draft_reaches_past_the_end():
    engine = Harness(make_options(max_draft=8), "mixed", seed=3)
    for number, most in enumerate((1, 2, 3, 7)):
        engine.add(number, TEXT[:5], max_tokens=most)
    budgets = {}
    while engine.scheduler.has_work:
        for chunk in engine.step().chunks:
            most = engine.requests[chunk.request].params.max_tokens
            at = chunk.start + len(chunk.trunk) - 5  # new tokens before this step's
            assert max(chunk.draft.depths(), default=0) <= most - at - 1
            assert len(chunk.draft) <= most - at - 1
            budgets[chunk.request, at] = chunk.draft_budget
    assert (budgets[0, 0], budgets[1, 0], budgets[2, 0], budgets[3, 0]) == (0, 0, 1, 5)
    engine.check_ends()


def test_drafts_yield_before_anyone_is_preempted():
    engine = Harness(make_options(pages=4, page_size=2, max_len=9, max_draft=4), "wrong")
    engine.add(0, TEXT[:4], max_tokens=5)
    engine.step()
    engine.step()
    assert engine.scheduler.stats.free_pages == 0
    engine.run()
    assert engine.scheduler.stats.preemptions == 0


def test_the_last_is_preempted_and_says_the_same():
    engine = Harness(make_options(pages=6, max_batch=3, prefix_cache=False))
    for number in range(3):
        engine.add(number, TEXT[number : number + 5], max_tokens=14, logprobs=0)
    plans = [engine.step() for _ in range(5)]
    assert engine.scheduler.stats.preemptions == 1
    assert [number for plan in plans for number in plan.released] == [2]
    assert engine.requests[2].state is State.WAITING and engine.requests[2].pages == []
    engine.run()
    admissions = [admission for plan in engine.plans for admission in plan.admitted]
    assert [admission.request for admission in admissions] == [0, 1, 2, 1, 2]  # 1 had to go later, and came back first
    assert len(admissions[-1].tokens) == 9 and admissions[-1].prompt == 5


def test_a_prefix_is_computed_once():
    engine = Harness(make_options())
    engine.add(0, TEXT[:18])
    engine.run()
    assert engine.scheduler.stats.hits == 0
    rows = engine.model.rows
    engine.add(1, TEXT[:17] + (0, 0))
    engine.step()
    assert engine.scheduler.stats.hits == 17 and engine.model.rows - rows == 2
    assert engine.plans[-1].chunks[0].start == 17 and len(engine.plans[-1].copies) == 1
    engine.run()
    engine.add(2, TEXT[:18])
    engine.step()
    assert engine.plans[-1].chunks[0].start == 17  # one token is always computed
    engine.run()


def test_the_output_is_part_of_the_prefix():
    engine = Harness(make_options())
    engine.add(0, TEXT[:6])
    engine.run()
    turn = engine.prompts[0] + tuple(engine.output[0])
    engine.add(1, turn + (1, 1))
    engine.step()
    assert engine.plans[-1].chunks[0].start == len(turn) - 1  # the last token said was never computed on
    engine.run()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_without_a_prefix_cache_pages_come_home(prefix_cache):
    engine = Harness(make_options(prefix_cache=prefix_cache))
    for number in range(4):
        engine.add(number, TEXT[:18])
    engine.run()
    stats = engine.scheduler.stats
    assert stats.free_pages + stats.idle_pages == 64 and (stats.idle_pages > 0) == prefix_cache


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_samples_share_their_prompt(prefix_cache):
    engine = Harness(make_options(prefix_cache=prefix_cache, max_chunk=8))
    for sample in range(4):
        engine.add(sample, TEXT[:18], sample=sample, leader=0 if sample else None, max_tokens=12)
    assert shape(engine.step()) == [(0, 8, 0)]
    assert shape(engine.step()) == [(0, 8, 0)]
    assert shape(engine.step()) == [(0, 2, 0)]
    plan = engine.step()
    assert shape(plan) == [(0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)]
    assert len(plan.copies) == 3 and {source for source, _ in plan.copies} == {engine.requests[0].pages[4]}
    assert all(engine.requests[number].pages[:4] == engine.requests[0].pages[:4] for number in range(4))
    engine.run()
    assert len({tuple(said) for said in engine.output.values()}) == 4


def test_a_follower_without_leader_goes_on_alone():
    engine = Harness(make_options(max_chunk=4))
    engine.add(0, TEXT[:12])
    engine.add(1, TEXT[:12], sample=1, leader=0)
    engine.add(2, TEXT[:12], sample=2, leader=99)
    engine.step()
    engine.abort(0)
    engine.run()


def test_a_leader_of_another_prompt_is_refused():
    engine = Harness(make_options())
    engine.add(0, TEXT[:12])
    with pytest.raises(InputError, match="leader 0"):
        engine.add(1, TEXT[:11], leader=0)


def test_prompt_logprobs_are_computed_though_the_pages_are_known():
    engine = Harness(make_options(max_chunk=5))
    for number in range(2):
        engine.add(number, TEXT[:13], prompt_logprobs=0)
        engine.run()
    engine.add(2, TEXT[:13], max_tokens=0, prompt_logprobs=0)
    engine.add(3, TEXT[:1], max_tokens=0, prompt_logprobs=0)
    engine.run()
    assert engine.scheduler.stats.hits == 0
    assert [plan.chunks[0].score for plan in engine.plans[:3]] == [0, 0, 0]
    assert engine.reason[2] == engine.reason[3] == "length" and len(engine.scores[2]) == 12


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_scores_are_delivered_once_whatever_is_preempted(prefix_cache):
    engine = Harness(make_options(pages=13, page_size=2, max_len=24, max_step_tokens=2, max_chunk=1, prefix_cache=prefix_cache))
    engine.add(0, TEXT[:9], max_tokens=8, prompt_logprobs=0)
    engine.add(1, TEXT[1:16], max_tokens=8, prompt_logprobs=0)
    for _ in range(13):
        engine.step()
    assert engine.scheduler.stats.preemptions == 1 and len(engine.scores[1]) == 12
    engine.run()
    first = next(chunk for plan in engine.plans[13:] for chunk in plan.chunks if chunk.request == 1 and chunk.score is not None)
    assert first.start + first.score == 12


def test_why_a_text_ends():
    engine = Harness(make_options(max_len=24), watched=7)
    engine.add(0, TEXT[:6], max_tokens=40)
    engine.add(1, TEXT[1:6], max_tokens=40, ignore_eos=False)
    engine.add(2, TEXT[2:6], max_tokens=40, stop_token_ids=(0, 1, 2, 4, 5))
    engine.add(3, TEXT[2:6], max_tokens=40, stop_token_ids=(0, 1, 2, 4, 5), min_tokens=3)
    engine.add(4, TEXT[2:6], max_tokens=1)
    engine.add(5, TEXT[:22], max_tokens=40)
    engine.run()
    assert len(engine.output[3]) >= 3 > len(engine.output[2])
    assert set(engine.reason.values()) == {"stop", "length", "watched"}


def test_tokens_after_the_end_are_dropped():
    """A draft is kept whole, but the text ends inside it: no later token is said, counted or remembered."""
    scheduler = Scheduler(make_options(max_draft=8, page_size=2), lambda number, token: "enough" if token == 9 else None)
    engine = Harness(make_options())  # for its parameters only
    request = engine.add(0, (1, 2), max_tokens=20, logprobs=0)
    scheduler.add(request)
    plan = scheduler.schedule()
    assert scheduler.commit(plan, Result((Outcome(0, (3,), ("a",), draft=DraftTree.chain((4, 9, 5, 6))),)))[0].tokens == (3,)
    plan = scheduler.schedule()
    assert len(plan.chunks[0].draft) == 4
    (event,) = scheduler.commit(plan, Result((Outcome(0, (4, 9, 5, 6, 8), ("b", "c", "d", "e", "f")),)))
    assert (event.tokens, event.logprobs, event.finish_reason) == ((4, 9), ("b", "c"), "enough")
    assert request.tokens == [1, 2, 3, 4, 9] and request.cached == 5
    assert sorted(node.key for node in scheduler.tables.prefix.nodes()) == [(1, 2), (3, 4), (9,)]
    assert scheduler.schedule().released == (0,) and not scheduler.has_work


def test_ended_from_outside():
    engine = Harness(make_options())
    engine.add(0, TEXT[:6])
    engine.add(1, TEXT[:6])
    engine.step(between=lambda: engine.abort(0))
    assert engine.output[0] == [] and engine.step().released == (0,)
    event = engine.scheduler.finish(1, "timeout")
    assert event.finish_reason == "timeout" and engine.scheduler.finish(1, "timeout") is None
    engine.abort(1)
    assert engine.scheduler.has_work and engine.step().released == (1,) and not engine.scheduler.has_work


def test_a_number_can_be_used_again_while_its_last_step_is_under_way():
    engine = Harness(make_options())
    engine.add(0, TEXT[:6])

    def replace():
        engine.scheduler.abort(0)
        engine.add(0, TEXT[3:9])

    engine.step(between=replace)
    assert engine.output[0] == []
    engine.run()


@pytest.mark.parametrize(
    "length, most, error, match",
    [
        (0, 4, InputError, "prompt is empty"),
        (64, 1, CapacityError, "max_len=64 leaves no room"),
        (40, 10, CapacityError, "needs 13 pages, the pool has 12"),
        (49, 0, CapacityError, "lower max_tokens"),
    ],
)
def test_what_can_never_run_is_refused(length, most, error, match):
    engine = Harness(make_options(pages=12))
    with pytest.raises(error, match=match):
        engine.add(0, (1,) * length, max_tokens=most, prompt_logprobs=0)
    assert not engine.scheduler.has_work


def test_what_just_fits_runs():
    engine = Harness(make_options(pages=12, max_draft=5), "mixed")
    engine.add(0, (1,) * 40, max_tokens=9)
    engine.add(1, (2,) * 48, max_tokens=0, prompt_logprobs=0)
    engine.run()


def test_a_number_in_use_is_refused():
    engine = Harness(make_options())
    engine.add(0, (1,))
    with pytest.raises(InputError, match="in use"):
        engine.add(0, (1,))


@pytest.mark.parametrize("field", ["page_size", "max_batch", "max_step_tokens", "max_chunk", "max_draft"])
def test_options_are_checked(field):
    with pytest.raises(InputError, match=field):
        make_options(**{field: -1})
    with pytest.raises(InputError, match="fcfs"):
        Scheduler(make_options(policy="fcsf"))


@pytest.mark.parametrize("outcomes", [(), (Outcome(1, (5,)),), (Outcome(0),)])
def test_a_result_that_does_not_answer_the_plan_is_an_error(outcomes):
    engine = Harness(make_options())
    engine.add(0, TEXT[:6])
    with pytest.raises(BackendError):
        engine.scheduler.commit(engine.scheduler.schedule(), Result(outcomes))


def run_scene():
    engine = Harness(make_options(pages=16, max_step_tokens=12, max_draft=4, max_len=40), "mixed", seed=4)
    for number in range(9):
        engine.add(number, TEXT[number % 4 : number % 4 + 5 + number], max_tokens=12, sample=number)
        engine.step()
    engine.run()
    return engine


def test_the_same_requests_give_the_same_plans():
    first, second = run_scene(), run_scene()
    assert first.plans == second.plans and first.scheduler.stats == second.scheduler.stats
    assert first.scheduler.stats.preemptions > 0 and first.model.kept > 0


def test_the_schedule_does_not_show_in_the_text():
    said = set()
    for changes in (
        {},
        {"max_batch": 1},
        {"max_step_tokens": 3, "max_chunk": 1},
        {"prefix_cache": False, "pages": 17, "max_len": 34},
        {"page_size": 1, "pages": 90, "max_draft": 4},
        {"page_size": 7, "max_draft": 9},
    ):
        engine = Harness(make_options(**changes), "mixed")
        for number in range(6):
            engine.add(number, TEXT[: 10 + number], max_tokens=18, sample=number)
        engine.run()
        said.add(tuple(tuple(engine.output[number]) for number in range(6)))
    assert len(said) == 1


def test_arrival_decides_who_is_first():
    engine = Harness(make_options(max_batch=1, max_step_tokens=4))
    for number, arrival in enumerate((5.0, 3.0, 4.0)):
        engine.add(number, TEXT[:3])
        engine.scheduler.abort(number)
        engine.requests[number].arrival = arrival
        engine.requests[number].tokens = list(TEXT[:3])
        engine.scheduler.add(engine.requests[number])
    engine.run()
    assert [admission.request for plan in engine.plans for admission in plan.admitted] == [1, 2, 0]


def test_a_policy_may_change_its_mind(monkeypatch):
    """Keys that are not steady are asked for in every step."""
    likes = {"number": 0}
    policy = SimpleNamespace(STEADY=False, key=lambda request, now: request.number != likes["number"])
    queue = Queue(policy)
    engine = Harness(make_options())
    for number in range(3):
        queue.add(engine.add(number, (1,)))
    likes["number"] = 2
    queue.order(0.0)
    assert [request.number for request in queue] == [2, 0, 1]
    monkeypatch.setitem(sys.modules, "slipstream.scheduler.policies.fcfs", policy)
    likes["number"] = 2
    picky = Harness(make_options(max_batch=1))
    for number in range(3):
        picky.add(number, TEXT[:3])
    picky.step()
    assert [admission.request for admission in picky.plans[0].admitted] == [2]
    picky.run()


def test_a_follower_waits_even_where_it_comes_before_its_leader(monkeypatch):
    policy = SimpleNamespace(STEADY=True, key=lambda request, now: -request.number)
    monkeypatch.setitem(sys.modules, "slipstream.scheduler.policies.fcfs", policy)
    for prompt in (TEXT[:1], TEXT[:9]):
        engine = Harness(make_options())
        engine.add(0, prompt)
        engine.add(1, prompt, sample=1, leader=0)
        assert [admission.request for admission in engine.step().admitted] == [0]
        engine.run()
