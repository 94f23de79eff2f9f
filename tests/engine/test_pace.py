"""The target in the engine: where it comes from, who it counts for, and that the loop measures by the clock it is given."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.config import Options
from slipstream.base.errors import InputError
from slipstream.cost import Pace
from slipstream.engine.core import Core, Ticket
from slipstream.engine.meter import Meter
from slipstream.engine.resolve import target_itl
from slipstream.scheduler import Request, Scheduler, SchedulerOptions
from slipstream.step import Outcome, Result
from slipstream.text.stream import NoText

LONG = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)


class Simulated:
    """An Executor on a clock of its own: a step takes 20 ms and 1 ms a row."""

    def __init__(self):
        self.now, self.plan = 0.0, None

    def launch(self, plan):
        self.plan = plan
        self.now += 0.02 + 0.001 * plan.rows

    def finish(self):
        return Result(tuple(Outcome(chunk.request, (7,) if chunk.sample else ()) for chunk in self.plan.chunks))

    def reset(self): ...

    def close(self): ...


def simulated(target: float) -> tuple[Core, Simulated]:
    sizes = {"page_size": 16, "pages": 500, "max_batch": 8, "max_step_tokens": 512, "max_len": 4096, "max_chunk": 512}
    options = SchedulerOptions(**sizes, prefix_cache=False, policy="fcfs", vocab=10, max_draft=0, target_itl=target)
    executor = Simulated()
    pace = Pace(lambda work: 0.1 + 0.1 * work.rows)  # far too slow, to begin with
    clock = lambda: executor.now  # noqa: E731
    return Core(lambda watch: Scheduler(options, watch, clock, pace), executor, Meter(), clock), executor


@pytest.mark.parametrize(("target", "longest"), [(0.1, 0.101), (0.0, 0.54)])
def test_a_simulated_machine_is_learnt_on_its_own_clock(target, longest):
    """A stream, and then a prompt of 2000 tokens."""
    core, executor = simulated(target)
    times, first = [], []
    core.submit([Ticket(Request(1, [1, 2, 3], LONG), NoText(), lambda delta: times.append(executor.now))])
    while len(times) < 20:
        core.step()
    prompt = SamplingParams(max_tokens=1, temperature=0)
    core.submit([Ticket(Request(2, [5] * 2000, prompt), NoText(), lambda delta: first.append(executor.now))])
    while not first:
        core.step()
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert max(gaps) <= longest and max(gaps) > 0.8 * longest
    assert [step.seconds for step in core.meter.steps] == pytest.approx([0.02 + 0.001 * step.work.rows for step in core.meter.steps])


def test_the_target_is_for_those_who_read_along():
    llm = LLM("dummy:tiny:fp32", max_len=64)
    _, [alone] = llm.engine.intake.request([1, 2], SamplingParams(max_tokens=2))
    _, [read] = llm.engine.intake.request([1, 2], SamplingParams(max_tokens=2), lambda delta: None)
    assert (alone.request.streamed, read.request.streamed) == (False, True)


def test_a_target_does_not_show_in_the_text():
    said = []
    for target in (0, 1e-3, 5):
        llm, got = LLM("dummy:tiny:fp32", max_len=256, prefix_cache=False, target_itl=target), {0: [], 1: []}
        for number, length in ((0, 3), (1, 200)):
            params = SamplingParams(max_tokens=40, seed=3, ignore_eos=True)
            _, tickets = llm.engine.intake.request([number + 1] * length, params, lambda delta, to=got[number]: to.extend(delta.token_ids))
            llm.engine.core.submit(tickets)
            for _ in range(4):
                llm.engine.core.step()
        while llm.engine.core.step():
            pass
        said.append((got, sum(step.work.rows > 2 for step in llm.engine.core.meter.steps)))
    assert said[0][0] == said[1][0] == said[2][0] and len(said[0][0][1]) == 40
    assert said[0][1] < said[1][1], "the prompt came in more chunks"


def test_where_the_target_comes_from():
    assert target_itl(Options()) == 100 and target_itl(Options(target_itl=0)) == 0
    assert target_itl(Options(device="cuda")) == 0 and target_itl(Options(device="cuda", target_itl=20)) == 20
    assert LLM("dummy:tiny:fp32", max_len=64, target_itl=30).engine.config.scheduler.target_itl == 0.03
    for wrong in (-1, float("inf"), float("nan"), True, "100"):
        with pytest.raises(InputError, match="target_itl"):
            Options(target_itl=wrong)


def test_steps_whose_ops_are_prepared_first_are_not_learnt_from():
    """Where they are recorded, or captured, which takes many times as long as running them."""
    llm = LLM("dummy:tiny")
    core, seen, results = llm.engine.core, [], []
    finish, observe = core.executor.finish, core.scheduler.observe
    core.executor.finish = lambda: (results.append(finish()), results[-1])[1]
    core.scheduler.observe = lambda *facts: (seen.append(facts), observe(*facts))
    for _ in range(2):
        llm.generate([[1, 2, 3]], LONG)
    steady = [result.steady for result in results]
    assert sum(steady) == len(seen) >= len(steady) - 6
    if llm.engine.kernels.tape() is not None:
        assert not steady[0]
