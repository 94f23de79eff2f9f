"""Two steps under way: texts, their ends and their facts are those of one step at a time, and whatever goes wrong goes wrong alone."""

from collections import deque
from dataclasses import replace

import pytest

from slipstream import LLM, SamplingParams
from slipstream.base.errors import BackendError, InputError
from slipstream.engine.core import Core, Ticket
from slipstream.engine.meter import Meter
from slipstream.ops.staging import Staging
from slipstream.scheduler import Request, Scheduler, SchedulerOptions
from slipstream.scheduler import passes as planned
from slipstream.step import Chunk, Outcome, Plan, Result
from slipstream.step.plan import UNKNOWN
from slipstream.text.stream import NoText
from tests.tools.steps import watch_steps

TINY = dict(model="dummy:tiny:fp32", speculate="none", max_len=128, max_batch=4, max_step_tokens=24, page_size=4)
PROMPTS = [[1, 2, 3], [7] * 40, [5, 6], [9] * 17, [4, 4, 8, 1], [3] * 33]


def follows(plan: Plan) -> bool:
    """Whether it was made before the result of the plan before it was known."""
    return any(chunk.trunk == (UNKNOWN,) for chunk in plan.chunks)


def said(overlap: bool, params, prompts=PROMPTS, **options):
    """Everything that a user gets to see, and how many steps were planned ahead."""
    llm, ahead = LLM(**{**TINY, **options}, overlap=overlap), []
    watch_steps(llm.engine.executor.runner, lambda plan, result: ahead.append(follows(plan)))
    out = [
        (sample.token_ids, sample.text, sample.finish_reason, sample.logprobs, output.prompt_logprobs)
        for output in llm.generate(prompts, params)
        for sample in output.outputs
    ]
    llm.engine.core.scheduler.check_integrity()
    assert not llm.engine.core.scheduler.has_work and not llm.engine.core._under_way
    llm.close()
    return out, sum(ahead)


@pytest.mark.parametrize(
    "params",
    [
        dict(temperature=0.9, seed=4, max_tokens=21),
        dict(temperature=0, max_tokens=30, stop_token_ids=list(range(0, 512, 9))),  # ends anywhere
        dict(temperature=0.8, seed=1, max_tokens=12, logprobs=2, n=2),
        dict(temperature=0.8, seed=2, max_tokens=1),
        dict(temperature=0, max_tokens=5, prompt_logprobs=1),
    ],
    ids=["seeded", "stops", "logprobs", "one token", "scored prompts"],
)
def test_what_is_said_is_what_one_step_at_a_time_says(params):
    params = SamplingParams(**{"ignore_eos": True} | params)
    plain, none = said(False, params)
    text, ahead = said(True, params)
    assert text == plain and none == 0
    if params.max_tokens > 5:  # shorter texts are hardly more than their prompts
        assert ahead > 5, "hardly any step was planned ahead"


def test_stop_strings_end_texts_of_the_built_in_model_between_two_steps():
    params = SamplingParams(max_tokens=60, temperature=0.7, seed=3, stop=["the", "ing"])
    prompts = ["Once upon a time", "The old man", "She said that"]
    options = dict(model=None, max_len=160, speculate="none")
    plain, _ = said(False, params, prompts, **options)
    text, ahead = said(True, params, prompts, **options)
    assert text == plain and ahead and "stop" in {reason for _, _, reason, _, _ in text}


def test_a_step_with_a_text_whose_logits_are_edited_is_planned_when_the_one_before_is_over():
    plain = SamplingParams(max_tokens=40, temperature=0.8, seed=5, ignore_eos=True)
    edited = replace(plain, repetition_penalty=1.3, max_tokens=12)
    several = [plain, plain, edited, plain, plain, plain]
    assert (both := said(True, several))[0] == said(False, several)[0]
    assert both[1] and not said(True, [edited] * len(PROMPTS))[1]


def test_where_guesses_are_checked_the_next_step_waits_for_them():
    params = SamplingParams(max_tokens=60, temperature=0, ignore_eos=True)
    repeating = [[1, 2, 3, 4, 5] * 6, [8, 9] * 10]
    options = dict(speculate="ngram:shortest=1", control=False)
    plain, _ = said(False, params, repeating, **options)
    assert said(True, params, repeating, **options) == (plain, 0)


def test_whoever_gives_way_gives_way_when_everything_is_known():
    """A pool for two of six: requests are preempted, and computed again."""
    params = SamplingParams(max_tokens=30, temperature=0.8, seed=6, ignore_eos=True)
    options = dict(kv_tokens=80, max_len=80)
    (plain, _), (text, ahead) = (said(overlap, params, **options) for overlap in (False, True))
    assert text == plain and ahead


def test_an_abort_between_two_steps_ends_one_text_only():
    params = SamplingParams(max_tokens=40, temperature=0.8, seed=5, ignore_eos=True)
    alone = [text for text, *_ in said(False, params)[0]]
    llm, got = LLM(**TINY, overlap=True), [[] for _ in range(4)]
    core, numbers = llm.engine.core, []
    for place, prompt in enumerate(PROMPTS[:4]):
        _, tickets = llm.engine.intake.request(prompt, params, lambda delta, to=got[place]: to.append(delta))
        numbers.append(tickets[0].request.number)
        core.submit(tickets)
    while len(got[0]) < 3:
        core.step()
    assert core._under_way, "nothing is under way"
    core.abort([numbers[0]])
    while core.step():
        pass
    texts = [[token for delta in got[place] for token in delta.token_ids] for place in range(4)]
    assert got[0][-1].finish_reason == "abort" and texts[0] == alone[0][: len(texts[0])] and texts[1:] == alone[1:4]
    assert core.scheduler.stats.free_pages + core.scheduler.stats.idle_pages == core.scheduler.options.pages


@pytest.mark.parametrize("broken", ["launch", "finish"])
def test_a_step_that_fails_ends_all_texts_and_leaves_an_engine_that_works(broken):
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    llm = LLM(**TINY, overlap=True)
    executor, calls = llm.engine.executor, []
    whole = getattr(executor, broken)

    def fails(*plan):
        calls.append(plan)
        if len(calls) == 5:
            raise BackendError("the device is gone")
        return whole(*plan)

    setattr(executor, broken, fails)
    with pytest.raises(BackendError):
        llm.generate(PROMPTS, params)
    core = llm.engine.core
    while core.step():
        pass
    assert not core.scheduler.has_work
    assert [output.outputs[0].token_ids for output in llm.generate(PROMPTS, params)] == [text for text, *_ in said(False, params)[0]]
    core.scheduler.check_integrity()


class Device:
    """An Executor that works by itself: a step takes 20 ms and is over when it is over, whatever the host does meanwhile, which takes 5 ms
    for a launch. Tokens are numbered."""

    def __init__(self):
        self.now, self.free, self.steps, self.known = 0.0, 0.0, deque(), {}

    def launch(self, plan):
        self.now += 0.005
        self.free = max(self.free, self.now) + (0.02 if plan.chunks else 0.0)
        self.steps.append((plan, self.free))

    def finish(self):
        plan, over = self.steps.popleft()
        self.now = max(self.now, over)
        return Result(tuple(Outcome(chunk.request, self._say(chunk)) for chunk in plan.chunks))

    def _say(self, chunk: Chunk) -> tuple[int, ...]:
        last = self.known.get(chunk.request, 0)
        assert chunk.trunk[-1] in (UNKNOWN, last) or not last
        self.known[chunk.request] = last + 1
        return (last + 1,)

    def reset(self): ...

    def close(self): ...


@pytest.mark.parametrize(("ahead", "step"), [(0, 0.025), (1, 0.02), (2, 0.02)])
def test_what_the_host_does_is_hidden_behind_the_device(ahead, step, monkeypatch):
    monkeypatch.setattr(planned, "COUNTS", (1,))
    sizes = {"page_size": 16, "pages": 500, "max_batch": 8, "max_step_tokens": 512, "max_len": 4096, "max_chunk": 64}
    options = SchedulerOptions(**sizes, prefix_cache=False, policy="fcfs", vocab=10_000, max_draft=0, ahead=ahead)
    device, tokens = Device(), []
    core = Core(lambda watch: Scheduler(options, watch), device, Meter(), lambda: device.now)
    params = SamplingParams(max_tokens=100, temperature=0, ignore_eos=True)
    core.submit([Ticket(Request(1, [1, 2, 3], params), NoText(), lambda delta: tokens.extend(delta.token_ids))])
    while core.step():
        pass
    assert tokens == list(range(1, 101))
    assert device.now == pytest.approx(100 * step, abs=0.011 + 0.025 * ahead), "steps behind the end included"
    assert sum(one.seconds for one in core.meter.steps) == pytest.approx(device.now)


def test_overlap_is_yes_no_or_decided_by_the_device():
    assert LLM(**TINY).engine.config.scheduler.ahead == 0 and LLM(**TINY, overlap=True).engine.config.scheduler.ahead == 1
    with pytest.raises(InputError, match="overlap='maybe'"):
        LLM(**TINY, overlap="maybe")
    with pytest.raises(InputError, match="ahead=-1"):
        replace(LLM(**TINY).engine.config.scheduler, ahead=-1)


@pytest.mark.parametrize("params", [{}, {"logprobs": 1}], ids=["several passes", "one pass"])
def test_a_launch_waits_for_nothing_that_it_sent_itself(params, monkeypatch):
    """What a launch sends comes behind the step that runs: whoever waits for it waits for that step."""
    launches = []

    class Sent:
        def __init__(self):
            self.launch = len(launches)

        def synchronize(self):
            assert self.launch < len(launches), "a launch waits for what it sent"

    def sent(staging: Staging):
        staging._done, staging._waits = Sent(), True
        return staging.device

    llm = LLM(**TINY, overlap=True)
    launch = llm.engine.executor.launch
    monkeypatch.setattr(llm.engine.executor, "launch", lambda plan: (launches.append(follows(plan)), launch(plan))[1])
    monkeypatch.setattr(Staging, "upload", sent)
    llm.generate(PROMPTS, SamplingParams(max_tokens=30, temperature=0.8, seed=1, ignore_eos=True, **params))
    assert sum(launches) > 5
